"""The definition that the walk in `methods/walk.py` must equal.

Prompts are tokens of the sequence in every block, deep prompts replace the rows of the block
before, and each timm block is called as it is. Everything a method does inside a block is done
through module hooks, in its attention by `plain_blocks.py`. Nothing is left out that the readout
does not need.
"""

from contextlib import ExitStack, contextmanager

import torch
from plain_blocks import attention_with, embedded, is_normed_behind
from plain_swin import plain_swin_features
from timm.layers.drop import drop_path
from torch import nn


def plain_logits(model, images):
    """Logits (B, C) of a `TunedViT` in the plain token form."""
    vit, tuning = model.vit, model.tuning
    if hasattr(vit, "layers"):  # stages of a Swin Transformer
        return model.head(plain_swin_features(model, images))
    tuning.begin()
    prefix = vit.num_prefix_tokens
    tokens, places = embedded(vit, images)
    end = prefix  # of the prompt rows
    memory = None
    for index, block in enumerate(vit.blocks):
        if not tuning.persistent and not tuning.touches(index):  # those of the last touched block
            tokens, end = torch.cat([tokens[:, :prefix], tokens[:, end:]], dim=1), prefix
        elif index == tuning.first_block or not tuning.persistent:
            entering = torch.cat([tokens[:, :prefix], tokens[:, end:]], dim=1)
            prompts = tuning.prompts_from(index, entering)
            if prompts is not None:
                rows = prompts.expand(len(images), -1, -1)
                tokens = torch.cat([tokens[:, :prefix], rows, tokens[:, end:]], dim=1)
                end = prefix + rows.shape[1]
        before = tokens
        inside = _inside(block, tuning, index, prefix, end)
        with _stochastic_depth(model, block, index), inside:
            tokens = block(tokens, **places[index])
        if tuning.persistent and index < len(vit.blocks) - 1:
            edited, memory = tuning.between(
                index, before[:, prefix:end], tokens[:, prefix:end], tokens[:, end:], memory
            )
            if edited is not None:
                tokens = torch.cat([tokens[:, :prefix], edited, tokens[:, end:]], dim=1)
    return model.head(_features(model, tokens, prefix, end))


def _features(model, tokens, prefix, end):
    vit = model.vit
    if model.readout == "attn_pool":
        rows = vit.norm(tokens)[:, end:]
        if type(vit).__name__ == "Eva":  # its pooling sees class token and registers, too
            rows = torch.cat([vit.norm(tokens)[:, :prefix], rows], dim=1)
        return vit.fc_norm(vit.attn_pool(rows))
    if model.readout == "cls":
        return vit.fc_norm(vit.norm(tokens)[:, 0])
    if model.readout == "cls_mean":
        normed = vit.norm(tokens)
        read = (normed[:, 0], normed[:, end:].mean(dim=1))
        return torch.cat([vit.fc_norm(part) for part in read], dim=1)
    rows = {
        "mean_no_cls": tokens[:, prefix:],
        "img_pool": tokens[:, end:],
        "prompt_pool": tokens[:, prefix:end],
    }[model.readout]
    return _mean(vit, rows)


def _mean(vit, rows):
    if vit.global_pool == "avg":
        return vit.fc_norm(vit.norm(rows).mean(dim=1))
    return vit.fc_norm(vit.norm(rows.mean(dim=1)))


@contextmanager
def _stochastic_depth(model, block, index):
    """The block with the recipe's: what is added to an image's tokens is left out at random."""

    def drop(module, arguments, branch):
        return drop_path(branch, model._drop_path[index], model.training)

    with ExitStack() as stack:
        for module in (block.drop_path1, block.drop_path2):
            stack.callback(module.register_forward_hook(drop).remove)
        yield


@contextmanager
def _inside(block, tuning, index, first, end):
    """The block, changed by what the tuning does inside it."""
    if not tuning.touches(index):
        with attention_with(block, None, index, first, end):
            yield
        return
    seen = {}

    def see_normed(module, arguments):
        seen["normed"] = arguments[0]

    def join_beside(module, arguments, attended):
        beside = tuning.beside_attention(index, attended)
        return None if beside is None else beside(attended, seen["normed"])

    def before_mlp(module, arguments):
        seen["entered"], seen["changed"] = arguments[0], tuning.before_mlp(index, arguments[0])
        return (seen["changed"],)

    def keep_change(module, arguments, branch):
        return branch + (seen["changed"] - seen["entered"])

    def after_mlp(module, arguments, output):
        return tuning.after_mlp(index, output)

    def after_block(module, arguments, tokens):
        return tuning.after_block(index, tokens)

    attn = block.attn
    hooks = [
        (attn.proj, join_beside),
        (block.mlp, after_mlp),
        (block.drop_path2, keep_change),
        (block, after_block),
    ]
    with ExitStack() as stack:
        begins = block.mlp if is_normed_behind(block) else block.norm2
        stack.callback(begins.register_forward_pre_hook(before_mlp).remove)
        stack.callback(attn.register_forward_pre_hook(see_normed).remove)
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        stack.enter_context(attention_with(block, tuning, index, first, end))
        yield


def loss_and_gradients(model, logits, labels):
    """Mean cross-entropy and the gradient of every tuned tensor, by name."""
    loss = nn.functional.cross_entropy(logits, labels)
    tuned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(tuned.values()))
    return loss.detach(), dict(zip(tuned, gradients, strict=True))
