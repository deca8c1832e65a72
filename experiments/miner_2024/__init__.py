"""MINER (Huang et al. 2024): answers by benchmark before and after 2 % of the neurons are masked, by modality."""
