"""Tiny CLIPSeg and SAM with random weights and their own processors, saved as the hub has them."""

from pathlib import Path
from typing import Any

from tests.tiny import seeded
from tests.tiny_diffusion import WORDS, tokenizer


def clipseg(folder: Path) -> Path:
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessorPil

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "initializer_range": 0.5}
    text = {"vocab_size": len(WORDS), "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPSegConfig(
        text_config=sizes | text | {"num_hidden_layers": 1, "pad_token_id": 1},
        vision_config=sizes | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
        projection_dim=8, reduce_dim=8, extract_layers=[0, 1, 2], decoder_num_attention_heads=2,
        decoder_intermediate_size=8, conditional_layer=0, initializer_factor=20.0,
    )  # fmt: skip
    seeded(lambda: CLIPSegForImageSegmentation(config)).save_pretrained(folder)
    pictures: Any = ViTImageProcessorPil(size={"height": 32, "width": 32})
    CLIPSegProcessor(pictures, tokenizer()).save_pretrained(folder)
    return folder


def sam(folder: Path) -> Path:
    from transformers import SamConfig, SamImageProcessorPil, SamModel, SamProcessor

    config = SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
            "output_channels": 16, "num_pos_feats": 8, "mlp_dim": 16, "window_size": 4, "global_attn_indexes": [0],
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "image_embedding_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 8, "attention_downsample_rate": 2,
        },
    )  # fmt: skip
    seeded(lambda: SamModel(config)).save_pretrained(folder)
    pictures: Any = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    SamProcessor(pictures).save_pretrained(folder)
    return folder
