-- Beside `mlflow`, which the image makes: logins have a database of their own.
CREATE DATABASE mlflow_auth;
