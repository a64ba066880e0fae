"""The walk through a frozen ViT, written once for all methods.

It calls the submodules of each timm block itself and asks the method's `Tuning` at a few places,
so that nothing is computed that nobody reads:

* Ephemeral prompts (deep prompting) are thrown away after their block, so they act only as extra
  keys and values. These do not depend on the image: they are computed once per step and shared.
* The last block runs only for the tokens that the readout reads.
* Blocks in front of the first trained tensor are a constant of the image (`TunedViT.prefix`).

All of this is exact; `benchmarks/plain_form.py` has the plain definition that it must equal.
"""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.attention import Attention
from timm.layers.drop import drop_path
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from methods import pieces
from methods.method import Images, Method, Tuning, blank_linear, overrides, tuned_dtype
from methods.recipe import Recipe
from methods.timm_names import SUPPORTED
from methods.timm_private import tokens_of

_UNTOUCHED = Tuning()
_INSIDE_PIECES = ("query_update", "value_update", "after_mlp", "after_block")
_MOST_DIFFERENCES = 5


def check_supported(vit: nn.Module) -> None:
    """Refuse what the walk would compute wrongly, by name and with the reason."""
    reason = None
    if type(vit) is not VisionTransformer:
        reason = f"it is a {type(vit).__name__}, not a plain timm VisionTransformer"
    else:
        for index, block in enumerate(vit.blocks):
            if type(block) is not Block:
                reason = f"block {index} is a {type(block).__name__}, not a plain timm Block"
            elif type(block.attn) is not Attention:
                reason = f"block {index} attends with {type(block.attn).__name__}, not Attention"
            elif getattr(block.attn, "gate", None) is not None:
                reason = f"block {index} gates its attention"
            if reason:
                break
        if not isinstance(vit.patch_drop, nn.Identity):
            reason = "it drops patches at random"
        if vit.global_pool not in POOLINGS:
            reason = f"its pooling {vit.global_pool!r} is not one of {', '.join(POOLINGS)}"
        elif vit.pool_include_prefix and vit.global_pool != "token":
            reason = "its pooling includes class token and registers (pool_include_prefix)"
    if reason:
        raise ValueError(f"this backbone cannot be tuned: {reason}. {SUPPORTED}")


POOLINGS = {"token": "cls", "avg": "mean_no_cls", "map": "attn_pool"}
"""The readout of a backbone, by timm's name of its pooling."""


def tune(
    vit: VisionTransformer,
    method: Method,
    images: Images | None = None,
    *,
    num_classes: int,
    recipe: Recipe | None = None,
    seed: int = 0,
) -> "TunedViT":
    """A ViT adapted by `method` to a task of `num_classes`, at its initial values.

    `vit` stays untouched and its frozen weights are shared, not copied; only backbone weights
    that the method trains are cloned. `images` is for methods that look at training images.
    Everything random comes from `seed`; the global generators are left alone.
    """
    check_supported(vit)
    recipe = recipe or method.recipe()
    generator = torch.Generator().manual_seed(seed)
    tuning = method.tuning(vit, generator, images)
    trained = {id(weight) for weight in method.trained_weights(vit)}
    shared = _share(vit, trained, tuned_dtype(vit))
    assert isinstance(shared, VisionTransformer)
    return TunedViT(
        shared,
        tuning,
        method=method,
        recipe=recipe,
        num_classes=num_classes,
        generator=generator,
    )


def restore(
    vit: VisionTransformer,
    method: Method,
    state: dict[str, Tensor],
    *,
    num_classes: int,
    recipe: Recipe | None = None,
) -> "TunedViT":
    """The model whose `tuned_state` was `state`: needs no images, whatever its method looked at."""
    model = tune(
        vit, method.without_images(), num_classes=num_classes, recipe=recipe or method.recipe()
    )
    model.load_tuned_state(state)
    return model


def _share(module: nn.Module, trained: set[int], dtype: torch.dtype) -> nn.Module:
    """The same module with frozen weights that share their memory, and clones of the trained ones.

    A layer with a trained weight is held in `dtype`, the type of what is trained, whole: not all
    kernels take a norm in two types. (A deep copy would do the same, three times slower.)
    """
    twin = copy.copy(module)
    tables = {name: table.copy() for name, table in vars(module).items() if isinstance(table, dict)}
    vars(twin).update(tables)
    learns = any(id(weight) in trained for weight in module.parameters(recurse=False))
    for name, weight in module.named_parameters(recurse=False):
        values = weight.detach()
        if learns:
            values = values.to(dtype)
        if id(weight) in trained:
            values = values.clone()
        setattr(twin, name, nn.Parameter(values, requires_grad=id(weight) in trained))
    for name, child in module.named_children():
        setattr(twin, name, _share(child, trained, dtype))
    return twin


class TunedViT(nn.Module):
    """A frozen ViT, what a method adds to it, and a new head.

    `forward(images)` equals `forward_from(prefix(images))`: the prefix is what is constant for an
    image, so a caller may compute it once and keep it. It may be in another floating type than
    the tuned tensors.
    """

    def __init__(
        self,
        vit: VisionTransformer,
        tuning: Tuning,
        *,
        method: Method,
        recipe: Recipe,
        num_classes: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"num_classes={num_classes}: a task has at least two classes")
        device, dtype = vit.patch_embed.proj.weight.device, tuned_dtype(vit)
        self.method = method
        self.recipe = recipe
        self.num_classes = num_classes
        self.checkpoint_blocks = False
        """Recompute each block in the backward pass instead of keeping its activations."""
        self.compile_blocks = False
        """Fuse what is bound by memory, where the method leaves a block's inside as it is."""
        self.vit = vit
        self.vit.head = nn.Identity()
        self.tuning = tuning.to(device)
        self.readout = _readout(vit, tuning, recipe)
        self._prepare_final_norm()
        self.head = _head(vit.embed_dim, num_classes, recipe, generator, dtype).to(device)
        self._constant_blocks = self._count_constant_blocks()
        self._drop_path = torch.linspace(0, recipe.drop_path, len(vit.blocks)).tolist()
        self.train()

    # What is trained

    def tuned_state(self) -> dict[str, Tensor]:
        """The trained tensors by name, detached: all that has to be saved."""
        return {name: p.detach() for name, p in self.named_parameters() if p.requires_grad}

    def load_tuned_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `tuned_state` of an equally configured model gave."""
        own = self.tuned_state()
        differences = [f"{name} is missing" for name in own.keys() - state.keys()]
        differences += [f"{name:.60} is unknown" for name in state.keys() - own.keys()]
        differences += [
            f"{name} has shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
            for name in own.keys() & state.keys()
            if own[name].shape != state[name].shape
        ]
        differences += [
            f"{name} is {state[name].dtype}, not {own[name].dtype}"
            for name in own.keys() & state.keys()
            if own[name].dtype != state[name].dtype
        ]
        if differences:
            raise ValueError(
                f"this state does not fit {self.method} with {self.num_classes} classes: "
                + "; ".join(sorted(differences)[:_MOST_DIFFERENCES])
                + (
                    f"; and {more} more"
                    if (more := len(differences) - _MOST_DIFFERENCES) > 0
                    else ""
                )
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    @property
    def num_tuned_parameters(self) -> int:
        return sum(tensor.numel() for tensor in self.tuned_state().values())

    def train(self, mode: bool = True) -> "TunedViT":
        """A frozen backbone stays in evaluation mode: no dropout or stochastic depth of its own."""
        super().train(mode)
        if not self.method.trains_backbone:
            self.vit.eval()
        return self

    # The pass

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of normalised images (B, 3, H, W)."""
        return self.forward_from(self.prefix(images))

    @property
    def prefix_key(self) -> tuple[str | int, ...] | None:
        """Equal keys on one backbone mean equal prefixes; None where nothing is constant."""
        if self._constant_blocks is None:
            return None
        if self._constant_blocks < len(self.vit.blocks):
            return ("blocks", self._constant_blocks)
        if self.recipe.final_norm == "trainable":
            return ("rows", self.readout)
        return ("features", self.readout, self.recipe.final_norm)

    @property
    def prefix_is_features(self) -> bool:
        """Whether only the head is left to be computed from a prefix."""
        return self.prefix_key is not None and self.prefix_key[0] == "features"

    @torch.no_grad()
    def prefix(self, images: Tensor) -> Tensor:
        """What no trained tensor changes: tokens (B, T, d) after some blocks, the features (B, d),
        or the images themselves where already the first layer is trained."""
        constant = self._constant_blocks
        if constant is None:
            return images
        tokens = self._embed(images)
        memory = None
        for index in range(constant):
            tokens, memory = self._step(index, tokens, memory)
        if constant == len(self.vit.blocks) and self.recipe.final_norm != "trainable":
            return self._features(tokens)
        return tokens

    def forward_from(self, prefix: Tensor) -> Tensor:
        """Logits (B, C) from what `prefix` gave."""
        features = prefix if prefix.ndim == 2 else self.features_from(prefix)
        # Also under autocast: rounded logits would make ties where there are none.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features.to(self.head.weight.dtype))

    def features_from(self, prefix: Tensor) -> Tensor:
        """What the head reads (B, d), from a prefix that is not yet the features."""
        self.tuning.begin()
        start = self._constant_blocks
        tokens = prefix
        if start is None:
            tokens, start = self._embed(prefix), 0
        if self._can_fuse:
            return self._features(self._fused_blocks(start, tokens))
        memory = None
        for index in range(start, len(self.vit.blocks)):
            if self.tuning.persistent and index == self.tuning.first_block:
                tokens = self._with_persistent(tokens)
            if self.checkpoint_blocks and self.training:
                tokens, memory = checkpoint(self._step, index, tokens, memory, use_reentrant=False)
            else:
                tokens, memory = self._step(index, tokens, memory)
        return self._features(tokens)

    def _embed(self, images: Tensor) -> Tensor:
        """Patches with position, behind class token and registers, as timm's forward begins."""
        return tokens_of(self.vit, self.vit.patch_embed(images))

    def _insert(self, tokens: Tensor, prompts: Tensor) -> Tensor:
        """Prompts (P, d) or (B, P, d) behind class token and registers."""
        prefix = self.vit.num_prefix_tokens
        prompts = prompts.expand(tokens.shape[0], -1, -1).to(tokens.dtype)
        return torch.cat([tokens[:, :prefix], prompts, tokens[:, prefix:]], dim=1)

    def _step(self, index: int, tokens: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """One block; of the last one only the tokens that the readout reads."""
        block, tuning = self._block(index), self._tuning_of(index)
        in_sequence = tuning.num_prompts if tuning.persistent else 0
        prompts = self._prompts_into(index, tokens.shape[0])
        if prompts is not None and self._is_read_with_prompts(index):
            tokens, in_sequence, prompts = self._insert(tokens, prompts), tuning.num_prompts, None
        asking = self._asking(index, in_sequence)
        normed = block.norm1(tokens)

        def update(asking_normed: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if (of_queries := tuning.query_update(index, asking_normed)) is not None:
                q = q + of_queries
            if (of_values := tuning.value_update(index, normed)) is not None:
                v = v + of_values
            return q, v

        q, k, v = pieces.project(block, normed, asking, prompts, update)
        attended = self._attend(index, q, k, v)
        attended = tuning.after_attention(index, normed[:, asking], attended)
        result = tokens[:, asking] + self._drop(index, block.drop_path1(block.ls1(attended)))
        output = tuning.after_mlp(index, block.mlp(block.norm2(result)))
        result = result + self._drop(index, block.drop_path2(block.ls2(output)))
        result = tuning.after_block(index, result)
        return self._edited(index, tokens, result, memory)

    def _fused_blocks(self, start: int, tokens: Tensor) -> Tensor:
        """The same for all blocks from `start` on, compiled from one attention to the next."""
        fused, memory, entered = pieces.compiled(), None, None
        for index in range(start, len(self.vit.blocks)):
            block, tuning = self._block(index), self._tuning_of(index)
            if entered is None:
                if tuning.persistent and index == tuning.first_block:
                    tokens = self._with_persistent(tokens)
                if self._is_read_with_prompts(index):
                    return self._step(index, tokens, memory)[0]
                entered = fused.enter(block, tokens, *self._entry(index, tokens))
            attended = self._attend(index, entered.q, entered.k, entered.v)
            if entered.normed is not None:
                attended = tuning.after_attention(index, entered.normed, attended)
            if index == len(self.vit.blocks) - 1:  # so few tokens that nothing is worth fusing
                return pieces.leave(block, entered.tokens, attended)
            if self._is_open_behind(index):
                result = fused.leave(block, entered.tokens, attended)
                tokens, memory = self._edited(index, entered.tokens, result, memory)
                entered = None
            else:
                entry = self._entry(index + 1, entered.tokens)
                following = self._block(index + 1)
                entered = fused.pass_on(block, entered.tokens, attended, following, *entry)
        return tokens

    @property
    def _can_fuse(self) -> bool:
        """Whether the method leaves the inside of the pieces as it is, and nothing is drawn there
        or computed twice."""
        return (
            self.compile_blocks
            and not self.checkpoint_blocks
            and not self.method.trains_backbone
            and not (self.training and any(self._drop_path))
            and not any(overrides(self.tuning, hook) for hook in _INSIDE_PIECES)
        )

    def _is_open_behind(self, index: int) -> bool:
        """Whether the tokens between this block and the next are changed or read."""
        tuning, following = self._tuning_of(index), self._tuning_of(index + 1)
        is_edited = tuning.persistent and overrides(tuning, "between")
        begins = following.persistent and following.first_block == index + 1
        return is_edited or begins or self._is_read_with_prompts(index + 1)

    def _entry(self, index: int, tokens: Tensor) -> tuple[slice, Tensor | None, bool]:
        """What enters a block beside its tokens: who asks, prompts, whether normed tokens are
        wanted behind its attention."""
        tuning = self._tuning_of(index)
        asking = self._asking(index, tuning.num_prompts if tuning.persistent else 0)
        prompts = self._prompts_into(index, tokens.shape[0])
        return asking, prompts, overrides(tuning, "after_attention")

    def _tuning_of(self, index: int) -> Tuning:
        return self.tuning if self.tuning.touches(index) else _UNTOUCHED

    def _prompts_into(self, index: int, batch_size: int) -> Tensor | None:
        """Prompts that are thrown away behind the block."""
        tuning = self._tuning_of(index)
        return None if tuning.persistent else tuning.prompts(index, batch_size)

    def _with_persistent(self, tokens: Tensor) -> Tensor:
        # Not len(), which would fix the batch size of an exported program.
        prompts = self.tuning.prompts(self.tuning.first_block, tokens.shape[0])
        assert prompts is not None, "persistent prompts are asked for once, here"
        return self._insert(tokens, prompts)

    def _is_read_with_prompts(self, index: int) -> bool:
        """Whether this is the last block, and a readout reads its own prompts too."""
        is_last = index == len(self.vit.blocks) - 1
        reads = self.readout in ("mean_no_cls", "prompt_pool")
        return is_last and reads and not self._tuning_of(index).persistent

    def _asking(self, index: int, in_sequence: int) -> slice:
        """Tokens whose queries are asked, where `in_sequence` prompts stand among them."""
        is_last = index == len(self.vit.blocks) - 1
        return self._readout_rows(in_sequence) if is_last else slice(None)

    def _edited(self, index: int, before: Tensor, after: Tensor, memory: Any) -> tuple[Tensor, Any]:
        """The tokens that left block `index` with persistent prompts as the next one sees them."""
        tuning = self._tuning_of(index)
        if not tuning.persistent or index == len(self.vit.blocks) - 1:
            return after, memory
        start = self.vit.num_prefix_tokens
        end = start + tuning.num_prompts
        edited, memory = tuning.between(
            index, before[:, start:end], after[:, start:end], after[:, end:], memory
        )
        if edited is None:
            return after, memory
        return torch.cat([after[:, :start], edited, after[:, end:]], dim=1), memory

    def _attend(self, index: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of the queries (B, T, width) to keys and values, projected: (B, T, d)."""
        attn = self._block(index).attn
        assert isinstance(attn, Attention)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        q, k = attn.q_norm(q), attn.k_norm(k)
        if (temperature := self._tuning_of(index).temperature(index)) is not None:
            q = q / temperature
        attended = F.scaled_dot_product_attention(
            q, k, v, dropout_p=attn.attn_drop.p if attn.training else 0.0, scale=attn.scale
        )
        attended = attn.norm(attended.transpose(1, 2).flatten(2))
        return attn.proj_drop(attn.proj(attended))

    def _block(self, index: int) -> Block:
        block = self.vit.blocks[index]
        assert isinstance(block, Block)
        return block

    def _drop(self, index: int, branch: Tensor) -> Tensor:
        return drop_path(branch, self._drop_path[index], self.training)

    # The readout

    def _readout_rows(self, num_prompts: int) -> slice:
        """The tokens that the readout reads, where `num_prompts` stand in the sequence."""
        first_prompt = self.vit.num_prefix_tokens
        first_patch = first_prompt + num_prompts
        return {
            "cls": slice(0, 1),
            "mean_no_cls": slice(first_prompt, None),
            "img_pool": slice(first_patch, None),
            "prompt_pool": slice(first_prompt, first_patch),
            "attn_pool": slice(first_patch, None),
        }[self.readout]

    def _features(self, rows: Tensor) -> Tensor:
        """From the rows that the readout reads, what the head reads."""
        vit = self.vit
        if self.readout == "attn_pool":
            assert vit.attn_pool is not None
            return vit.fc_norm(vit.attn_pool(vit.norm(rows)))
        if self.readout == "cls":
            return vit.fc_norm(vit.norm(rows[:, 0]))
        if vit.global_pool == "avg":  # timm has put the norm where the pretraining had it
            return vit.fc_norm(vit.norm(rows).mean(dim=1))
        return vit.fc_norm(vit.norm(rows.mean(dim=1)))

    def _prepare_final_norm(self) -> None:
        choice = self.recipe.final_norm
        if choice == "pretrained_frozen":
            return
        norms = [norm for norm in (self.vit.norm, self.vit.fc_norm) if list(norm.parameters())]
        if not norms:
            raise ValueError(f"Recipe: final_norm={choice!r}, but the backbone has no final norm")
        for norm in norms:
            for name, weight in list(norm.named_parameters()):
                own = weight.detach().clone().to(tuned_dtype(self.vit))
                if choice == "fresh_frozen":
                    own = torch.full_like(weight, 0.0 if name == "bias" else 1.0)
                setattr(norm, name, nn.Parameter(own, requires_grad=choice == "trainable"))

    def _count_constant_blocks(self) -> int | None:
        """Blocks that no trained tensor and nothing random changes; None: not even the patches."""
        vit = self.vit
        behind_embedding = (vit.blocks, vit.norm, vit.fc_norm, vit.attn_pool)
        behind = {id(p) for part in behind_embedding if part for p in part.parameters()}
        if any(p.requires_grad and id(p) not in behind for p in vit.parameters()):
            return None
        if self.recipe.drop_path > 0:
            return 0
        trained = [
            index
            for index, block in enumerate(vit.blocks)
            if any(p.requires_grad for p in block.parameters())
        ]
        return min([self.tuning.first_block, len(vit.blocks), *trained])


def _readout(vit: VisionTransformer, tuning: Tuning, recipe: Recipe) -> str:
    readout = POOLINGS[vit.global_pool] if recipe.readout == "auto" else recipe.readout
    reason = None
    if readout == "cls" and not vit.has_class_token:
        reason = "the backbone has no class token"
    elif readout == "prompt_pool" and not tuning.num_prompts:
        reason = "the method has no prompts in the sequence"
    elif readout == "prompt_pool" and not tuning.touches(len(vit.blocks) - 1):
        reason = f"behind block {tuning.last_block} there are no prompts to read"
    elif readout == "attn_pool" and vit.global_pool != "map":
        reason = "the backbone has no attention pooling"
    if reason:
        raise ValueError(f"Recipe: readout={readout!r}, but {reason}")
    return readout


def _head(
    width: int, num_classes: int, recipe: Recipe, generator: torch.Generator, dtype: torch.dtype
) -> nn.Linear:
    head = blank_linear(width, num_classes, dtype=dtype)
    if recipe.head_init == "prior":
        nn.init.kaiming_normal_(head.weight, mode="fan_out", generator=generator)
        nn.init.constant_(head.bias, -math.log(99))
    else:
        std = recipe.head_init_std
        nn.init.trunc_normal_(head.weight, std=std, generator=generator)
        nn.init.zeros_(head.bias)
    return head
