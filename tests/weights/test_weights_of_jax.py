"""Arrays of JAX: read as timm reads them, heads and blocks told."""

import numpy as np
import pytest
import torch
from tiny_weights import HEADS, WIDTH, features, images, jax_arrays, read, shaken, vit, with_values


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"prefix": "opt/target/"},
        {"prefix": "params/", "big_vision": True},
        {"prefix": "params/", "big_vision": True, "stacked": True},
    ],
)
@pytest.mark.parametrize("size", [32, 48])
def test_arrays_of_jax_are_read_as_timm_reads_them(form, size, state, tmp_path):
    path = tmp_path / "vit.npz"
    np.savez(path, **jax_arrays(state, HEADS, **form))
    timms = vit(img_size=size)
    timms.load_pretrained(str(path))
    filled, about = read(path, vit(img_size=size))
    assert features(filled, images(size)).equal(features(timms.eval(), images(size)))
    assert "3 heads (the shapes in the file)" in about.assumed


def test_attention_pooling_of_big_vision_in_bfloat16(tmp_path):
    options = {"class_token": False, "global_pool": "map"}
    model = shaken(vit(**options)).to(torch.bfloat16).float()
    own = model.state_dict()
    arrays = jax_arrays(own | {"cls_token": torch.zeros(1, 1, WIDTH)}, HEADS, big_vision=True)
    del arrays["cls"]
    pool = {k.removeprefix("attn_pool."): v.numpy() for k, v in own.items() if "attn_pool" in k}
    key, value = (np.split(pool[f"kv.{end}"], 2) for end in ("weight", "bias"))
    of = {
        "query": (pool["q.weight"], pool["q.bias"]),
        "key": (key[0], value[0]),
        "value": (key[1], value[1]),
    }
    there = "MAPHead_0/MultiHeadDotProductAttention_0"
    for name, (weight, bias) in of.items():
        arrays[f"{there}/{name}/kernel"] = weight.T.reshape(WIDTH, HEADS, -1)
        arrays[f"{there}/{name}/bias"] = bias.reshape(HEADS, -1)
    arrays |= {
        "MAPHead_0/probe": pool["latent"],
        f"{there}/out/kernel": pool["proj.weight"].T.reshape(HEADS, -1, WIDTH),
        f"{there}/out/bias": pool["proj.bias"],
        "MAPHead_0/LayerNorm_0/scale": pool["norm.weight"],
        "MAPHead_0/LayerNorm_0/bias": pool["norm.bias"],
    }
    for number in (0, 1):
        dense = f"MAPHead_0/MlpBlock_0/Dense_{number}"
        arrays[f"{dense}/kernel"] = pool[f"mlp.fc{number + 1}.weight"].T
        arrays[f"{dense}/bias"] = pool[f"mlp.fc{number + 1}.bias"]
    path = tmp_path / "siglip.npz"
    np.savez(path, **{f"params/img/{k}": v for k, v in arrays.items()})
    timms = vit(**options)
    timms.load_pretrained(str(path))
    assert features(read(path, vit(**options))[0]).equal(features(timms))
    half = {  # as JAX writes it: two bytes without a name
        f"params/img/{k}": (v.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view("V2")
        for k, v in arrays.items()
    }
    np.savez(path, **half)
    assert features(read(path, vit(**options))[0]).equal(features(model))


def test_arrays_of_jax_tell_heads_and_blocks(state, tmp_path):
    path = tmp_path / "vit.npz"
    np.savez(path, **jax_arrays(state, 6))
    filled, _ = read(path)
    expected = with_values(state, vit(num_heads=6))
    torch.testing.assert_close(features(filled), features(expected))
    np.savez(path, **jax_arrays(state, HEADS, blocks=4))
    with pytest.raises(ValueError, match="4 blocks, this backbone has 2"):
        read(path)
