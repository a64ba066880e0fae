"""What a file is, from its content: the end of its name is no promise."""

import json
import re
import zipfile
from pathlib import Path
from typing import Literal

Kind = Literal["safetensors", "npz", "torch_zip", "pickle"]

_HEAD = 4096

_MAGIC = (
    (b"\x1f\x8b", "is compressed by gzip: unpack it first (gunzip, or tar -xzf)"),
    (b"\xfd7zXZ\x00", "is compressed by xz: unpack it first (unxz)"),
    (b"BZh", "is compressed by bzip2: unpack it first (bunzip2)"),
    (b"\x28\xb5\x2f\xfd", "is compressed by zstd: unpack it first (unzstd)"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"Rar!", "is a RAR archive: unpack it first"),
    (b"\x89HDF", "is an HDF5 file (Keras, TensorFlow); weights of PyTorch or JAX's .npz are read"),
    (b"GGUF", "is a GGUF file, quantised weights; those in float32, float16 or bfloat16 are read"),
    (b"%PDF", "is a PDF document, not weights"),
    (b"\x89PNG", "is a PNG picture, not weights"),
    (b"\xff\xd8\xff", "is a JPEG picture, not weights"),
    (b"\x93NUMPY", "is a single NumPy array; JAX's weights are many, in an .npz"),
)

_PICKLE = re.compile(rb"\x80[\x00-\x05]")


def kind_of(path: Path) -> Kind:
    """How to read the file. ValueError says what it is instead of weights, and what to do."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise ValueError(f"{path}: is empty; copy or download it again")
    if reason := _foreign(head, size):
        raise ValueError(f"{path}: {reason}")
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if size > 8 and head[8:9] == b"{":
        length = int.from_bytes(head[:8], "little")
        if length > size - 8:
            raise ValueError(
                f"{path}: is cut short: its header alone has {length:,} bytes, the file {size:,};"
                " copy or download it again"
            )
        return "safetensors"
    if _PICKLE.match(head):
        return "pickle"
    if head[257:262] == b"ustar":
        raise ValueError(f"{path}: is a tar archive: unpack it first (tar -xf)")
    if not head.strip(b"\x00"):
        raise ValueError(f"{path}: begins with {len(head):,} zero bytes: a download that broke off")
    raise ValueError(
        f"{path}: cannot be read as weights: it begins with {head[:16]!r}; read are safetensors,"
        " checkpoints of torch.save and JAX's .npz"
    )


def _foreign(head: bytes, size: int) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"version https://git-lfs"):
        found = re.search(rb"^size (\d+)", text, re.MULTILINE)
        full = f" of {int(found[1]):,} bytes" if found else ""
        return (
            f"is a pointer of Git LFS ({size:,} bytes), the weights{full} were not downloaded;"
            " run `git lfs pull` in its repository"
        )
    if re.match(rb"<(!doctype|html|head|\?xml|!--|svg)", text, re.IGNORECASE):
        found = re.search(rb"<title[^>]*>\s*([^<]{1,80})", text, re.IGNORECASE)
        title = f" ({found[1].decode(errors='replace').strip()!r})" if found else ""
        return f"is a web page{title}, not the file that it offers; download the file itself"
    if text.startswith(b"{"):
        return _foreign_json(head, size)
    return next((reason for magic, reason in _MAGIC if head.startswith(magic)), None)


def _foreign_json(head: bytes, size: int) -> str:
    if b'"weight_map"' in head:
        return sharded_reason()
    try:
        keys = list(json.loads(head)) if size <= _HEAD else []
    except ValueError:
        keys = []
    shown = f" ({', '.join(map(str, keys[:5]))})" if keys else ""
    return f"is JSON text{shown}, not weights"


def sharded_reason() -> str:
    return (
        "the weights are in several files (an index of shards): write them as one, e.g. in Python"
        " transformers' AutoModel.from_pretrained(FOLDER).save_pretrained(NEW,"
        " max_shard_size='100GB')"
    )


def _kind_of_zip(path: Path) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: is cut short or damaged, a zip archive without its end ({error});"
            " copy or download it again"
        ) from error
    names = [member.filename for member in members]
    inner = {name.partition("/")[2] for name in names}
    if any(name.endswith(".npy") for name in names):
        return "npz"
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise ValueError(
            f"{path}: is a TorchScript archive, a program with its weights; take the weights out"
            f" where it can be trusted: torch.save(torch.jit.load({path.name!r},"
            " map_location='cpu').state_dict(), 'weights.pth')"
        )
    if "data.pkl" in inner:
        if any(member.compress_type != zipfile.ZIP_STORED for member in members):
            raise ValueError(f"{path}: is a compressed archive; torch.save writes none: unpack it")
        return "torch_zip"
    if any("archive_format" in name or "serialized_exported_program" in name for name in names):
        raise ValueError(
            f"{path}: is an exported program (torch.export), not weights; save the state_dict() of"
            " the model it was made from"
        )
    raise ValueError(
        f"{path}: is a zip archive with {', '.join(names[:3]) or 'nothing'} in it: unpack it first"
    )


def refuse_absent(path: Path) -> None:
    """ValueError where there is neither a file nor a folder of weights."""
    if path.is_dir() or path.is_file():
        return
    there = "is no regular file" if path.exists() else "there is no such file of weights"
    raise ValueError(f"{path}: {there}")
