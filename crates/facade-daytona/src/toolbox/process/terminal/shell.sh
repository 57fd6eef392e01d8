# Becomes the interactive shell of a terminal. $1 is what its prompt shall be
# preceded by once, to tell that it is ready; $2 the start-up file for bash.
[ -n "$LANG$LC_ALL$LC_CTYPE" ] || export LANG=C.UTF-8
if ! command -v bash >/dev/null 2>&1; then
  # Shells without line editing echo what is typed early just once: ready now.
  printf '%s' "$1"
  exec "${SHELL:-/bin/sh}" -i
fi
SHELL=$(command -v bash)
export SHELL
# A pipe in place of a file, so that nothing is left in the sandbox.
exec bash -c 'exec 9< <(printf %s "$2"); SANDBOXAI_READY=$1 exec bash --rcfile /dev/fd/9 -i' bash "$1" "$2"
