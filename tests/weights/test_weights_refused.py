"""What is no such network, no file of weights or no name, is refused with the reason."""

import gzip
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from tiny_weights import HEADS, WIDTH, features, jax_arrays, read, saved, shaken, vit, with_values

from methods import backbones, load_backbone


def spoilt(state, **changes):
    return {**state, **changes}


@pytest.mark.parametrize(
    ("content", "into", "words"),
    [
        (lambda s: vit(depth=4).state_dict(), {}, "4 blocks, this backbone has 2"),
        (lambda s: vit(patch_size=16).state_dict(), {}, "patches of 16×16 pixels, .* has 8×8"),
        (lambda s: vit(in_chans=1).state_dict(), {}, "images of 1 channels"),
        (lambda s: vit(embed_dim=48).state_dict(), {}, "width 48, this backbone has 24"),
        (lambda s: vit(reg_tokens=4).state_dict(), {}, "4 register tokens, .* has none"),
        (lambda s: s, {"reg_tokens": 4}, "no register tokens, this backbone has 4"),
        (lambda s: vit(init_values=1.0).state_dict(), {}, "a layer scale, .* has none"),
        (lambda s: s, {"init_values": 1.0}, "no layer scale, this backbone has one"),
        (lambda s: vit(pre_norm=True).state_dict(), {}, "a norm before the blocks"),
        (lambda s: vit(global_pool="avg").state_dict(), {}, "fc_norm"),
        (lambda s: vit(class_token=False, global_pool="map").state_dict(), {}, "no class token"),
        (lambda s: vit(qk_norm=True).state_dict(), {}, "normalised queries and keys"),
        (lambda s: vit(qkv_bias=False).state_dict(), {}, "missing: blocks.0.attn.qkv.bias"),
        (lambda s: vit(no_embed_class=True).state_dict(), {}, "16 positions, which are no square"),
        (lambda s: spoilt(s, dist_token=torch.ones(1, 1, WIDTH)), {}, "distillation token"),
        (
            lambda s: spoilt(s, **{"blocks.0.attn.relative_position_bias_table": torch.ones(4, 3)}),
            {},
            "relative positions .BEiT",
        ),
        (lambda s: {"layer1.0.conv1.weight": torch.ones(3)}, {}, "holds a ResNet"),
        (lambda s: {"epoch": 5, "loss": 0.4}, {}, "no ViT is found in it, it holds epoch, loss"),
        (lambda s: torch.ones(3), {}, "a single tensor"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH) / 0), {}, "holds infinity"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH).int()), {}, "cls_token is int32"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH) * 1j), {}, "cls_token is complex64"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH).to_sparse()), {}, "is sparse"),
        (lambda s: spoilt(s, cls_token=torch.ones(1, 1, WIDTH, device="meta")), {}, "no values"),
        (
            lambda s: spoilt(s, cls_token=torch.ones(1).expand(1, 10**6, 10**6)),
            {},
            "claims 1,000,000,000,000 values",
        ),
    ],
)  # fmt: skip
def test_another_network_is_refused_in_numbers(content, into, words, state, tmp_path):
    path = saved(content(state), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=words) as error:
        read(path, vit(**into))
    assert str(error.value).startswith(f"{path}: ")


def test_the_backbone_that_would_fit_is_named(tmp_path):
    state = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32).state_dict()
    with pytest.raises(ValueError, match=r"width 192, .* has 64.*vit_tiny_patch16_224"):
        load_backbone("test_vit", weights=saved(state, tmp_path / "tiny.pth"))


def test_two_tensors_for_one_place_are_refused(state, tmp_path):
    content = {**state, "blocks.0.0.norm1.bias": state["blocks.0.norm1.bias"] + 1}
    with pytest.raises(ValueError, match=r"another tensor of the file is blocks\.0\.norm1\.bias"):
        read(saved(content, tmp_path / "twice.pth"))


def test_fine_tuned_mae_calls_its_norm_another_name(tmp_path):
    """Its one norm stands behind the mean of the tokens, where the tag mae reads it."""
    timms = shaken(timm.create_model("test_vit", num_classes=0, global_pool="avg", img_size=32))
    path = saved({"model": timms.state_dict()}, tmp_path / "mae_finetuned.pth")
    filled, _ = read(path, timm.create_model("test_vit", num_classes=0, img_size=32), "x.mae")
    backbones._read_as_mae(filled)
    torch.testing.assert_close(features(filled), features(timms))
    with pytest.raises(ValueError, match="fc_norm"):
        load_backbone("test_vit", weights=path)


def test_patches_are_resampled_for_flexivit_alone(state, tmp_path):
    path = tmp_path / "flexivit.npz"
    np.savez(path, **jax_arrays(state, HEADS))
    timms = vit(patch_size=16)
    timms.load_pretrained(str(path))
    filled, _ = read(path, vit(patch_size=16), "flexivit_small")
    torch.testing.assert_close(features(filled), features(timms))
    with pytest.raises(ValueError, match="patches of 8×8 pixels, this backbone has 16×16"):
        read(path, vit(patch_size=16))


def test_a_mapping_that_holds_itself_is_read_once(state, tmp_path):
    content = {"model": dict(state)}
    for i in range(50):
        content[f"again{i}"] = content
    filled, _ = read(saved(content, tmp_path / "knot.pth"))
    assert features(filled).equal(features(with_values(state)))


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz"])
def test_weights_that_are_not_finite_are_refused(name, state, tmp_path):
    spoiled = {k: v.clone() for k, v in state.items()}
    spoiled["blocks.1.mlp.fc1.weight"][0, 0] = float("nan")
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, **jax_arrays(spoiled, HEADS))
        words = "encoderblock_1/MlpBlock_3/Dense_0/kernel holds NaN"
    else:
        saved(spoiled, path)
        words = r"blocks\.1\.mlp\.fc1\.weight holds NaN \(1 of"
    with pytest.raises(ValueError, match=words):
        read(path)


# What is no file of weights


class Evil:
    def __reduce__(self):
        return print, ("executed",)


def files(folder):
    """Every kind of file that is not weights, and what is said of it."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 346293852\n"
    network = torch.nn.Linear(2, 2)
    torch.save({"model": {}, "cfg": Evil()}, folder / "evil")
    torch.save(timm.create_model("test_vit"), folder / "whole")
    torch.jit.trace(network, torch.ones(1, 2)).save(folder / "script")
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("weights.bin", b"1")
    torch.save({"a": torch.ones(1000)}, folder / "short")
    whole = (folder / "short").read_bytes()
    safe = safetensors.torch.save({"a": torch.ones(1000)})
    index = b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    np.savez(folder / "bomb", **{"embedding/kernel": np.zeros(3)})
    np.savez_compressed(folder / "zeros", **{"embedding/kernel": np.zeros(2_000_000)})
    return {
        "pointer": (pointer, "pointer of Git LFS.*346,293,852 bytes.*git lfs pull"),
        "page": (b"<!DOCTYPE html><html><title>404</title>", "web page .'404'"),
        "empty": (b"", "is empty"),
        "gzip": (gzip.compress(whole), "gunzip"),
        "json": (b'{"error": "Not Found"}', "JSON text .error"),
        "index": (index, "several files"),
        "text": (b"not weights", "begins with b'not weights'"),
        "zeros_only": (bytes(9000), "zero bytes"),
        "torn_zip": (whole[:-100], "cut short"),
        "torn_safe": (safe[:-100], "cut short"),
        "torn_header": (safe[:30], "cut short"),
        "pickle5": (b"\x80\x05\x95\x05\x00\x00\x00\x00\x00\x00\x00}\x94.", "another protocol"),
        "pickle2": (pickle.dumps({"a": 1}, protocol=2), "something else than torch.save"),
        "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        "evil": (None, "could run code: .*print"),
        "whole": (None, "whole pickled model .*VisionTransformer.*state_dict"),
        "script": (None, "TorchScript.*torch.jit.load"),
        "zip": (None, "zip archive with weights.bin"),
        "zeros.npz": (None, "would unpack to 16,000,"),
    }


def test_what_is_no_weights_is_called_what_it_is(tmp_path, capsys):
    for name, (content, words) in files(tmp_path).items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        for suffix in (".pth", ".safetensors", ".npz"):  # the name is no promise
            named = path.with_name(f"x_{name}{suffix}")
            named.write_bytes(path.read_bytes())
            with pytest.raises(ValueError, match=words) as error:
                read(named)
            assert "\n" not in str(error.value) and "weights_only argument" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_folders_that_hold_no_weights(tmp_path):
    with pytest.raises(ValueError, match=r"folder without model.safetensors .* nothing"):
        read(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="several files"):
        read(tmp_path)
    with pytest.raises(ValueError, match="no such file"):
        read(tmp_path / "absent.pth")


def test_weights_that_were_saved_on_a_gpu_are_read_here(state, tmp_path, monkeypatch):
    """The file names the device of every tensor; here there is none such."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        for zipped in (True, False):
            path = tmp_path / f"cuda{zipped}.pth"
            torch.save(state, path, _use_new_zipfile_serialization=zipped)
            assert b"cuda:0" in path.read_bytes()
    for zipped in (True, False):
        filled, _ = read(tmp_path / f"cuda{zipped}.pth")
        assert features(filled).equal(features(with_values(state)))


# Names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vit_base_patch16_224_in21k", "now it is vit_base_patch16_224.augreg_in21k"),
        ("vit_small_patch16_224_dino", "now it is vit_small_patch16_224.dino"),
        ("google/vit-base-patch16-224", "looks like a model of the Hugging Face hub"),
        ("timm/vit_base_patch16_224.nonsense", "has no pretraining 'nonsense'"),
        ("test_vit3", "pool_include_prefix"),
    ],
)
def test_names_that_are_not_taken_say_what_is(name, words):
    with pytest.raises(ValueError, match=words):
        load_backbone(name, pretrained=False)


def test_the_hub_s_prefix_is_no_other_backbone():
    for prefix in ("timm/", "hf_hub:timm/", "hf-hub:timm/"):
        assert load_backbone(f"{prefix}test_vit", pretrained=False).name == "test_vit"
