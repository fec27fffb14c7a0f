"""Ask the doctor: what will go wrong with these settings on this server, before it does.

Starts a server that allows ten connections and ends idle ones after five seconds, as some hosters' do.

Run it with ``python -m examples.ask_the_doctor`` in the directory of the clone. Of your own server ask
``offload-db doctor --workers 4``, with the settings in MYSQL_HOST, MYSQL_USER and MYSQL_PASSWORD.
"""

from __future__ import annotations

import argparse
import os

from examples.support.mariadb import PrivateServer
from offload_db.doctor import command


def main() -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with PrivateServer(options=["--max-connections=10", "--wait-timeout=5"]) as private:
        os.environ.update(private.endpoint.environment())
        status = command.run(parser.parse_args(["--workers", "4", "--pool-size", "20"]))
    print(f"exit code: {status}")


if __name__ == "__main__":
    main()
