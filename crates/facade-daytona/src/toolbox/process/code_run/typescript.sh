# The code is on standard input; programs that do not read it from there get it
# as an argument.
if node -e 'process.exit(process.versions.amaro ? 0 : 1)' >/dev/null 2>&1 </dev/null; then
  exec node --disable-warning=ExperimentalWarning --experimental-strip-types - "$@"
elif command -v tsx >/dev/null 2>&1; then
  exec tsx -e "$(cat)" "$@"
elif command -v ts-node >/dev/null 2>&1; then
  exec ts-node -O '{"module":"CommonJS"}' -e "$(cat)" "$@"
elif command -v deno >/dev/null 2>&1; then
  exec deno run -A --ext=ts - "$@"
elif command -v bun >/dev/null 2>&1; then
  exec bun run - "$@"
fi
echo 'nothing in this image runs TypeScript; install Node.js 22.6 or later, or tsx (npm install -g tsx)' >&2
exit 127
