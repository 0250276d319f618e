#!/usr/bin/env bash
# Runs all findings, one after another, and says which have changed.
set -uo pipefail
cd "$(dirname "$0")"
changed=0
for script in *.sh; do
  [ "$script" = run_all.sh ] && continue
  echo "== $script"
  bash "$script" || { echo "changed: $script"; changed=1; }
done
exit "$changed"
