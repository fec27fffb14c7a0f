"""Source files of users, as type checkers see them; nobody imports them."""
