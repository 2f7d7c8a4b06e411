-- PostgreSQL's container runs this once, on an empty volume. The service is no superuser there; who is one gets in from
-- within that container only.
\getenv password POSTGRES_PASSWORD
CREATE ROLE tiles LOGIN PASSWORD :'password';
CREATE DATABASE tiles OWNER tiles;
ALTER ROLE postgres PASSWORD NULL;
