"""What an edit did: a pure function of samples and of what the model said before and after.

`measure` compares the outputs of the unedited model, the edited model and the random controls.
"""
