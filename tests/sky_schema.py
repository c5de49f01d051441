"""SkyPilot's own JSON schemas of tasks and resources, without what SkyPilot depends on.

Its dependencies want other versions of ours, so it is installed alone (scripts/install.sh); of its
packages only those are executed that the schemas are written in.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType


class _WaitFor:
    """Ways of `autostop`, which managed jobs have not."""

    supported_modes = list


def read_schemas():
    """(of a task, of its resources)."""
    root = Path(find_spec("sky").origin).parent
    told = {"sky": {"__version__": "0.14.1", "__commit__": ""}, "sky.skylet": {}, "sky.utils": {},
            "sky.skylet.autostop_lib": {"AutostopWaitFor": _WaitFor}}  # fmt: skip
    for name, attributes in told.items():
        package = ModuleType(name)
        package.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        vars(package).update(attributes)
        sys.modules[name] = package
    try:
        schemas = import_module("sky.utils.schemas")
        schemas._task_config_schema = dict  # of `config:`, which loads SkyPilot's server
        return schemas.get_task_schema(), schemas.get_resources_schema()
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "sky"]:
            del sys.modules[name]
