"""What the demo and the tests share: a private MariaDB server and the shell that prepares an environment."""
