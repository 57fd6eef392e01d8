command -v node >/dev/null 2>&1 && exec node - "$@"
echo 'there is no Node.js in this image; install nodejs, or use another image' >&2
exit 127
