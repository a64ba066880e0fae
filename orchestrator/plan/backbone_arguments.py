"""Arguments of a backbone as a command says them: `init_values=1e-5 mlp_layer=SwiGLUPacked`.

Values are read as YAML has them. Which arguments there are, timm's constructors say, later.
"""

from collections.abc import Sequence

from methods.argument_values import Arguments, Value, as_value
from methods.hub_names import hub_name
from orchestrator.support.document import shown
from orchestrator.support.yaml_io import parse_yaml

FLAG = "--backbone-args"


def parse_arguments(texts: Sequence[str]) -> dict[str, Value]:
    """By name. ValueError shows what is no NAME=VALUE, or stands there twice."""
    arguments: dict[str, Value] = {}
    for text in texts:
        name, equals, written = text.partition("=")
        if not equals or not name.isidentifier() or not written.strip():
            raise ValueError(
                f"{FLAG}: expected NAME=VALUE, such as init_values=1e-5, found {shown(text)}"
            )
        if name in arguments:
            raise ValueError(f"{FLAG}: {name} stands there twice")
        read = parse_yaml(written, source=f"{FLAG} {name}")
        try:
            arguments[name] = as_value(read)
        except ValueError as error:
            raise ValueError(f"{FLAG} {name}: found {shown(written)}, {error}") from error
    return arguments


def check_arguments(name: str, *, has_weights: bool, arguments: Arguments) -> None:
    """ValueError where name, weights and arguments of a backbone do not go together."""
    is_of_hub = hub_name(name) is not None
    if is_of_hub and has_weights:
        raise ValueError(
            f"--weights: {name} names its weights itself; leave --weights out, or give timm's name"
            " of the architecture as --backbone"
        )
    if arguments and not is_of_hub and not has_weights:
        raise ValueError(
            f"{FLAG}: timm's own weights of {name} are of the network that timm builds under this"
            f" name; {FLAG} are for --weights FILE, hf-hub:OWNER/NAME and local-dir:FOLDER"
        )
