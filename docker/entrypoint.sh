#!/bin/sh
# Passes arguments on to `deploy`: `docker run IMAGE build …`; `docker run -it IMAGE bash` is a shell.
set -eu

case "${1:-}" in
    bash | sh | python | python3) exec "$@" ;;
    deploy) shift ;; # whoever writes the whole command means the same
esac
exec deploy "$@"
