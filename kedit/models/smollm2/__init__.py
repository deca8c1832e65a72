"""SmolLM2-135M-Instruct, from the package registry, alone and behind kedit's vision tower."""
