"""The database: tables and their declarations, transactions, migrations, backups."""
