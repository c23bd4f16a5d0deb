"""InternViT: a pre-norm ViT with LayerScale on timm's VisionTransformer (InternVL; EMOVA §3.1).

The 300M shape has timm's ``vit_intern300m_patch14_448`` state-dict names, so its weights load by name. The 6B shape
adds RMSNorm and query/key normalisation over the whole width before the heads are split.

Shape letters: B tiles, P patches, T = P + 1 with the class token, D width, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import emova.core.compat  # noqa: F401  (torchvision must import before timm)

# isort: split
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention, FrozenBatchNormAct2d, LayerNorm, PatchEmbed, RmsNorm, freeze_batch_norm_2d
from timm.models.efficientnet import EfficientNet
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class InternViTConfig:
    """Shape of an InternViT; the defaults are InternViT-300M's."""

    image_size: int = 448
    """Side of a tile in pixels."""
    patch_size: int = 14
    width: int = 1024
    depth: int = 24
    heads: int = 16
    ffn_width: int = 4096
    qkv_bias: bool = True
    qk_norm: bool = False
    """RMSNorm over all heads' queries and keys together (6B)."""
    norm: str = "layernorm"
    """``layernorm`` or ``rmsnorm``."""
    layer_scale: float = 0.1
    """Initial LayerScale."""
    final_norm: bool = False
    """A norm after the last block; nano, trained from scratch, has one."""
    class_token: bool = True
    """InternViT has one; nano reads the patches alone and goes without."""
    trunk: str = ""
    """A timm EfficientNet whose first stages see the picture before the ViT does; none is InternViT's plain patch
    embedding. A small ViT needs far more pictures to find strokes and edges by itself (Xiao et al. 2021)."""
    fused_attention: bool = True
    """torch's fused kernel; on a CPU in bfloat16 plain matrix products are about twice as fast to train."""
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.norm not in ("layernorm", "rmsnorm"):
            raise ValueError(f"vision norm is {self.norm!r}; it is 'layernorm' or 'rmsnorm'")
        if self.width % self.heads or self.image_size % self.patch_size:
            raise ValueError("vision width must be a multiple of heads, image_size of patch_size")

    @property
    def side(self) -> int:
        """Patches a side of a tile."""
        return self.image_size // self.patch_size


class WideNormAttention(Attention):
    """timm's attention with query/key RMSNorm over the whole width, as InternViT-6B has it."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool, **rest: Any) -> None:
        super().__init__(dim, num_heads=num_heads, qk_norm=False, **rest)
        if qk_norm:
            self.q_norm = RmsNorm(dim, eps=1e-6)
            self.k_norm = RmsNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        batch, length, _ = x.shape
        q_BTD, k_BTD, v_BTD = self.qkv(x).chunk(3, dim=-1)
        q_BTD, k_BTD = self.q_norm(q_BTD), self.k_norm(k_BTD)
        q_BHTK, k_BHTK, v_BHTK = (
            part.view(batch, length, self.num_heads, self.head_dim).transpose(1, 2) for part in (q_BTD, k_BTD, v_BTD)
        )
        out_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, attn_mask=attn_mask, is_causal=is_causal)
        return self.proj_drop(self.proj(out_BHTK.transpose(1, 2).reshape(batch, length, self.attn_dim)))


def _keep_dtype(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The constants of a frozen norm stay float32 where the weights are cast to bfloat16 (DeepSpeed does so), and would
    make what comes after them float32."""
    return output.to(inputs[0].dtype)


class TrunkEmbed(PatchEmbed):
    """The first stages of a convolutional network in place of the linear patch embedding (the hybrid of Dosovitskiy et
    al. 2021, section 3.1): as many as reduce a patch to one position. Its batch norms are constants, since a batch may
    hold a single picture.

    Args:
        trunk: one of timm's EfficientNets.
    """

    def __init__(self, trunk: str, embed_dim: int, patch_size: int, bias: bool = True, **rest: Any) -> None:
        super().__init__(embed_dim=embed_dim, patch_size=patch_size, bias=bias, **rest)
        network = timm.create_model(trunk, pretrained=False, num_classes=0)
        stages_of: list[dict[str, Any]] = getattr(network, "feature_info", [])
        fitting = [info for info in stages_of if info["reduction"] == patch_size]
        if not isinstance(network, EfficientNet) or not fitting:
            raise ValueError(f"vision trunk is {trunk!r}; it is an EfficientNet of timm that reduces by patch_size")
        stages = int(fitting[-1]["module"].removeprefix("blocks.")) + 1
        assert isinstance(network.blocks, nn.Sequential)
        parts = nn.Sequential(network.conv_stem, network.bn1, *list(network.blocks)[:stages])
        frozen = freeze_batch_norm_2d(parts)
        for module in frozen.modules():
            if isinstance(module, FrozenBatchNormAct2d):
                module.register_forward_hook(_keep_dtype)
        last = nn.Conv2d(fitting[-1]["num_chs"], embed_dim, 1, bias=bias)
        self.proj: nn.Module = nn.Sequential(frozen, last)  # type: ignore[assignment]  # timm's is one convolution

    @property
    def trunk(self) -> nn.Sequential:
        """The stem, its norm, then the stages."""
        assert isinstance(self.proj, nn.Sequential) and isinstance(self.proj[0], nn.Sequential)
        return self.proj[0]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous(memory_format=torch.channels_last))  # faster on a CPU


class InternViT(VisionTransformer):
    """Tiles to patch features.

    Args:
        config: the shape.
    """

    config_class: ClassVar[type] = InternViTConfig

    def __init__(self, config: InternViTConfig) -> None:
        norm = partial(RmsNorm, eps=1e-6) if config.norm == "rmsnorm" else partial(LayerNorm, eps=1e-6)
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="token" if config.class_token else "",
            class_token=config.class_token,
            embed_layer=partial(TrunkEmbed, config.trunk) if config.trunk else PatchEmbed,
            embed_dim=config.width,
            depth=config.depth,
            num_heads=config.heads,
            mlp_ratio=config.ffn_width / config.width,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            init_values=config.layer_scale,
            final_norm=config.final_norm,
            drop_path_rate=config.drop_path,
            norm_layer=norm,
            attn_layer=WideNormAttention if config.qk_norm else Attention,
        )
        blocks = [block for block in self.blocks if isinstance(block, Block)]
        for block in blocks:
            block.attn.fused_attn = config.fused_attention  # type: ignore[assignment]  # no module, but a bool
        self.config = config
        self.width = config.width
        self.side = config.side
        # timm rounds width * ratio down; a ratio that is not a clean fraction would lose a unit.
        widen = blocks[0].mlp.fc1
        assert isinstance(widen, nn.Linear) and widen.out_features == config.ffn_width, "the ratio must keep ffn_width"

    @property
    def layers(self) -> list[nn.Module]:
        """The blocks, first to last; stage 2 trains the deeper half (EMOVA §4)."""
        return list(self.blocks)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Pixels [B, 3, image_size, image_size], normalised, to patch features [B, P, D] without the class token."""
        return self.deep(self.shallow(x, 0), 0)

    def shallow(self, x: Tensor, blocks: int) -> Tensor:
        """Pixels to what leaves the first ``blocks`` blocks: [B, T, D]."""
        return self._through(self._pos_embed(self.patch_embed(x)), self.layers[:blocks])

    def deep(self, x: Tensor, blocks: int) -> Tensor:
        """What ``shallow`` made of as many blocks to patch features [B, P, D]."""
        return self.norm(self._through(x, self.layers[blocks:]))[:, self.num_prefix_tokens :]

    def _through(self, x: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        for block in blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return x
