package locktest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// ErrNoPostgres is returned by InitPostgres where there is none.
var ErrNoPostgres = errors.New("PostgreSQL is not installed (/usr/lib/postgresql/*/bin)")

// InitPostgres makes a database in dir/data, for a user postgres without a password. It
// returns where the programs are, and as whom they have to be run: not as root. dir must
// be one that others may enter, and becomes that user's.
func InitPostgres(ctx context.Context, dir string) (bin string, attr *syscall.SysProcAttr, err error) {
	binaries, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(binaries) == 0 {
		return "", nil, errors.Join(ErrNoPostgres, err)
	}
	bin, attr = filepath.Dir(binaries[len(binaries)-1]), &syscall.SysProcAttr{}
	if os.Getuid() == 0 {
		if attr.Credential, err = unprivileged(); err != nil {
			return "", nil, err
		}
		if err := os.Chown(dir, int(attr.Credential.Uid), int(attr.Credential.Gid)); err != nil {
			return "", nil, err
		}
	}
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "--pgdata", filepath.Join(dir, "data"), "--username", "postgres",
		"--auth", "trust", "--no-sync", "--no-locale", "--encoding", "UTF8")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("initdb: %w\n%s", err, out)
	}
	return bin, attr, nil
}

// Postgres starts a PostgreSQL server that doesn't wait for the disk. Its user is
// postgres, without a password, and its database postgres.
func Postgres(t testing.TB, args ...string) *Server {
	t.Helper()
	// Not the test's own directory, which nobody else may enter.
	dir, err := os.MkdirTemp("", "postgres")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	bin, attr, err := InitPostgres(t.Context(), dir)
	if errors.Is(err, ErrNoPostgres) {
		missing(t, "PostgreSQL")
	}
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	s := &Server{
		Address: address, t: t, dir: dir, attr: attr, quit: syscall.SIGQUIT, family: true,
		ready: func() bool {
			return exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", portOf(address)).Run() == nil
		},
	}
	s.argv = append([]string{
		filepath.Join(bin, "postgres"), "-D", filepath.Join(dir, "data"), "-k", dir, "-c", "listen_addresses=127.0.0.1", "-c", "port=" + portOf(address),
		"-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "max_connections=100",
	}, args...)
	s.begin()
	return s
}

func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("postgres")
	if err != nil {
		u, err = user.Lookup("nobody")
	}
	if err != nil {
		return nil, err
	}
	uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(uidErr, gidErr)
}

// children are the processes that a process has started, and that run.
func children(of int) (all []int) {
	found, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is right
	for _, file := range found {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		// "PID (name) state PPID …", and a name may be anything
		var state string
		var parent int
		rest := string(text[strings.LastIndexByte(string(text), ')')+1:])
		if _, err := fmt.Sscan(rest, &state, &parent); err != nil || parent != of {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file))); err == nil {
			all = append(all, pid)
		}
	}
	return all
}
