"""Claims about aiomysql's names."""
