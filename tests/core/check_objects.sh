#!/bin/sh
# What a wider instruction set may not do to the rest of the program: check_objects.sh NM OBJDUMP OBJECT...
#
# An inline function compiled with -mavx512f is a weak symbol; the linker keeps one copy of it for everyone, and a
# processor without AVX-512 dies in code that never asked for it. So objects of kernels define nothing but their table,
# nothing weak, and no other object holds an instruction on wide registers.
nm=$1 objdump=$2
shift 2
failed=0
for object; do
  name=$(basename "$object" .cc.o)
  case $object in
  */kernels/*)
    found=$("$nm" -C --defined-only --extern-only "$object" | cut -d' ' -f2-)
    if [ "$found" != "R resforward::${name}_kernels" ] && [ "$found" != "D resforward::${name}_kernels" ]; then
      echo "$object defines more than its table:"
      echo "$found"
      failed=1
    fi
    case $name in portable) ;; *) continue ;; esac
    ;;
  esac
  if wide=$("$objdump" -d --no-show-raw-insn "$object" | grep -E '%[yz]mm|%k[1-7]|[[:space:]]v[a-z0-9]+[[:space:]].*%xmm'); then
    echo "$object holds instructions of AVX:"
    echo "$wide" | head -5
    failed=1
  fi
done
[ $# -gt 5 ] || { echo "no objects"; failed=1; }
exit $failed
