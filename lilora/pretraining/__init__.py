"""Pre-training of the tiny backbones in the manner of LLaVA's stage 1, and the real stage-1 LLaVA from its parts."""
