#!/usr/bin/env bash
# Shows what offload_db does for a blocked backend: sets up what the demo needs, then hands over to it.
# Everything stays on this machine; see --help.
set -euo pipefail
# shellcheck source=examples/support/setup.sh
. "$(dirname "${BASH_SOURCE[0]}")/support/setup.sh"

choose_python
export PYTHONPATH=$ROOT${PYTHONPATH:+:$PYTHONPATH}
"$PYTHON" -m examples.fuel_copilot.demo.arguments "$@" || exit $?
case " $* " in *" --help "* | *" -h "*) exit 0 ;; esac

printf '[1/3] looking for a MariaDB server ...\n'
ensure_server
printf '[2/3] preparing a virtual environment in .venvs/demo (about 40 s the first time) ...\n'
make_venv demo "$PYTHON" --editable '.[examples]'
printf '[3/3] running the demo ...\n'
# exec: signals meant for the demo reach it, and it ends what it started.
exec "$VENVS/demo/bin/python" -m examples.fuel_copilot.demo "$@"
