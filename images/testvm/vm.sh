#!/usr/bin/env bash
# Starts and stops the virtual host that build.sh has made. What it writes is forgotten when it stops. It is emulated, some ten
# times slower than the machine; ORBITER_TEST_VM_ACCEL=kvm uses the processor's own virtualization where that works.
# ORBITER_TEST_VM_CPUS is how many processors it has (2).
# Usage: vm.sh start DIRECTORY SSH_PORT REDIS_PORT    starts it, and waits until both ports of 127.0.0.1 lead there
#        vm.sh stop DIRECTORY
set -euo pipefail

verb=${1:-} directory=${2:-}
case $verb in
  start)
    ssh_port=${3:?} redis_port=${4:?}
    accelerator=${ORBITER_TEST_VM_ACCEL:-tcg}
    [ "$accelerator" != tcg ] || accelerator=tcg,thread=multi
    qemu-system-x86_64 -accel "$accelerator" -cpu max -smp "${ORBITER_TEST_VM_CPUS:-2}" -m 3072 -display none -no-reboot \
      -daemonize -pidfile "$directory/pid" -serial "file:$directory/console.log" \
      -kernel "$directory/vmlinuz" -initrd "$directory/initrd.img" -append "root=/dev/vda rw console=ttyS0 quiet" \
      -drive "file=$directory/disk.img,format=raw,if=virtio,snapshot=on" \
      -netdev "user,id=wired,hostfwd=tcp:127.0.0.1:$ssh_port-:22,hostfwd=tcp:127.0.0.1:$redis_port-:6379" \
      -device virtio-net-pci,netdev=wired -device virtio-rng-pci
    connection=(-i "$directory/id_ed25519" -p "$ssh_port" -o ConnectTimeout=5 -o StrictHostKeyChecking=no -o LogLevel=ERROR
      -o UserKnownHostsFile=/dev/null root@127.0.0.1)
    began=$SECONDS
    while ((SECONDS - began < 900)); do
      if ssh "${connection[@]}" timeout 60 systemctl is-system-running --wait >/dev/null 2>&1; then exit 0; fi
      if ! kill -0 "$(cat "$directory/pid")" 2>/dev/null; then break; fi
      sleep 1
    done
    echo "testvm: it has not started; see $directory/console.log" >&2
    exit 1
    ;;
  stop)
    [ -f "$directory/pid" ] || exit 0
    pid=$(cat "$directory/pid")
    kill "$pid" 2>/dev/null || true
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
    rm -f "$directory/pid"
    ;;
  *)
    echo "vm.sh: unknown verb '$verb'; known: start stop" >&2
    exit 2
    ;;
esac
