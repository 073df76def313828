"""Keys, users and the ZAP handler."""
