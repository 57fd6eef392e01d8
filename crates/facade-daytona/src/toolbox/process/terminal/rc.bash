exec 9<&-
[ -r ~/.bashrc ] && . ~/.bashrc
# Last, so that nothing before can be in its way: says once that the first
# prompt is due, and then never was.
SANDBOXAI_PROMPT_COMMAND=("${PROMPT_COMMAND[@]}")
PROMPT_COMMAND='unset PROMPT_COMMAND
  [ ${#SANDBOXAI_PROMPT_COMMAND[@]} -gt 0 ] && PROMPT_COMMAND=("${SANDBOXAI_PROMPT_COMMAND[@]}")
  unset SANDBOXAI_PROMPT_COMMAND
  for SANDBOXAI_COMMAND in "${PROMPT_COMMAND[@]}"; do eval "$SANDBOXAI_COMMAND"; done
  printf %s "$SANDBOXAI_READY"
  unset SANDBOXAI_COMMAND SANDBOXAI_READY'
