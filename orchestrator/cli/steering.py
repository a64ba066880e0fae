"""`set`: to ask something of a sweep that runs."""

from orchestrator.api.requests import SetRequest
from orchestrator.cli.options import Folder, Storage, with_requests
from orchestrator.cli.terminal import Terminal
from orchestrator.support.near import typed

console = Terminal()


@with_requests
def set_(folder: Folder, request: SetRequest, storage: Storage = None) -> None:
    """Steer a sweep while it runs: slots, trials, a pause, a study less.

        orchestrator set sweeps/photos-20261121-120000 --slots 2
        orchestrator set sweeps/photos-20261121-120000 --trials +10
        orchestrator set sweeps/photos-20261121-120000 --pause
        orchestrator set sweeps/photos-20261121-120000 --stop-study photos.linear

    The process that runs it heeds it within seconds; if none does, the next `resume`. Trials that
    run go on to their end. Who asked for what, and when, is kept with the studies, and `status`
    says it.
    """
    from dataclasses import asdict

    from orchestrator.api.sweep import Sweep

    found = Sweep.open(folder, storage=storage)
    given = {name: value for name, value in asdict(request).items() if value not in (None, False)}
    asked = found.set(**given)
    for line in asked.changes:
        console.say(line)
    console.say(asked.outlook(f"orchestrator resume {typed(folder)}"))
