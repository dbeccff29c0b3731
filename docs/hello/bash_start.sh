#!/bin/sh
# The smallest application: a directory served on the port that the platform chose.
exec python3 -u -m http.server --bind 127.0.0.1 "$PORT"
