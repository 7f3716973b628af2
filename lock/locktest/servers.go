package locktest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a process of a test's own, on a free port of this host, that keeps what
// it knows in a directory which ends with the test.
type Server struct {
	Address string // host:port, for clients

	t     testing.TB
	argv  []string
	env   []string // beside this process's own
	dir   string
	ready func() bool
	cmd   *exec.Cmd

	attr   *syscall.SysProcAttr // nil: none
	quit   syscall.Signal       // with which Kill ends it; 0: SIGKILL
	family bool                 // it serves by processes that it starts
}

// Redis starts a redis-server that keeps nothing on disk, unless args say otherwise.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	need(t, "redis-server")
	s := newRedis(t, args)
	s.begin()
	return s
}

func newRedis(t testing.TB, args []string) *Server {
	t.Helper()
	address := freeAddress(t)
	_, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	s := &Server{Address: address, t: t, dir: dir, ready: func() bool { return hasLoaded(address) }}
	s.argv = append([]string{"redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir, "--logfile", "log"}, args...)
	return s
}

// Etcd starts an etcd cluster of n members, which does not wait for the disk.
func Etcd(t testing.TB, n int, args ...string) []*Server {
	t.Helper()
	need(t, "etcd")
	var members []*Server
	var peers, all []string
	for i := range n {
		peers = append(peers, "http://"+freeAddress(t))
		all = append(all, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range n {
		address, dir := freeAddress(t), t.TempDir()
		s := &Server{Address: address, t: t, dir: dir, ready: func() bool { return hasLeader(address) }}
		s.argv = append([]string{
			"etcd", "--name", fmt.Sprint("m", i), "--data-dir", filepath.Join(dir, "data"), "--log-level", "error", "--unsafe-no-fsync",
			"--listen-client-urls", "http://" + address, "--advertise-client-urls", "http://" + address,
			"--listen-peer-urls", peers[i], "--initial-advertise-peer-urls", peers[i],
			"--initial-cluster", strings.Join(all, ","), "--initial-cluster-token", t.Name(),
		}, args...)
		members = append(members, s)
	}
	beginAll(members)
	return members
}

// ZooKeeper starts an ensemble of n servers, with ticks of 500 ms, which does not
// wait for the disk. Sessions may last from one second.
func ZooKeeper(t testing.TB, n int, settings ...string) []*Server {
	t.Helper()
	return zooKeeper(t, n, func(_ int, address string) string { return address }, settings)
}

// LateZooKeeper starts an ensemble of three, of which the first hears from its leader by
// relays. It is never the leader itself.
func LateZooKeeper(t testing.TB, settings ...string) ([]*Server, []*Relay) {
	t.Helper()
	var relays []*Relay
	servers := zooKeeper(t, 3, func(i int, address string) string {
		if i > 0 {
			return address
		}
		relays = append(relays, NewRelay(t, address))
		return relays[len(relays)-1].Address()
	}, settings)
	return servers, relays
}

// zooKeeper starts an ensemble. to is where the i-th server reaches another one.
func zooKeeper(t testing.TB, n int, to func(i int, address string) string, settings []string) []*Server {
	t.Helper()
	need(t, "java")
	const jar = "/usr/share/java/zookeeper.jar"
	if _, err := os.Stat(jar); err != nil {
		missing(t, jar)
	}
	var quorum, election []string
	for range n {
		quorum, election = append(quorum, freeAddress(t)), append(election, portOf(freeAddress(t)))
	}
	main := "org.apache.zookeeper.server.quorum.QuorumPeerMain"
	if n == 1 {
		main = "org.apache.zookeeper.server.ZooKeeperServerMain"
	}
	var members []*Server
	for i := range n {
		address, dir := freeAddress(t), t.TempDir()
		var ensemble []string
		for j, at := range quorum {
			if j != i {
				at = to(i, at)
			}
			if n > 1 {
				ensemble = append(ensemble, fmt.Sprintf("server.%d=%s:%s", j+1, at, election[j]))
			}
		}
		lines := append([]string{
			"tickTime=500", "initLimit=10", "syncLimit=4", "dataDir=" + dir, "clientPort=" + portOf(address), "clientPortAddress=127.0.0.1",
			"admin.enableServer=false", "4lw.commands.whitelist=*", "minSessionTimeout=1000", "maxSessionTimeout=40000", "maxClientCnxns=0",
			"forceSync=no", "standaloneEnabled=true", "extendedTypesEnabled=true",
		}, append(ensemble, settings...)...)
		file := filepath.Join(dir, "zoo.cfg")
		write(t, file, strings.Join(lines, "\n")+"\n")
		write(t, filepath.Join(dir, "myid"), fmt.Sprint(i+1))
		members = append(members, &Server{
			Address: address, t: t, dir: dir, ready: func() bool {
				return Word(address, "ruok") == "imok" && !strings.Contains(Word(address, "srvr"), "not currently serving")
			},
			argv: []string{
				"java", "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dzookeeper.forceSync=no",
				"-cp", jar + ":/etc/zookeeper/conf_example", main, file,
			},
		})
	}
	beginAll(members)
	return members
}

// Word asks a ZooKeeper server one of its words of four letters.
func Word(address, word string) string {
	conn, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return ""
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // then it does not answer
	io.WriteString(conn, word)                        //nolint:errcheck // then it does not answer
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// Addresses are those of several servers.
func Addresses(servers []*Server) (all []string) {
	for _, s := range servers {
		all = append(all, s.Address)
	}
	return all
}

func beginAll(servers []*Server) {
	for _, s := range servers {
		s.launch()
	}
	for _, s := range servers {
		s.awaitReady()
	}
}

// begin starts the server for the first time.
func (s *Server) begin() {
	s.t.Helper()
	beginAll([]*Server{s})
}

// Pid is the process's id.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Start starts the server again, after Kill, with what it had on disk.
func (s *Server) Start() {
	s.t.Helper()
	s.run()
	s.awaitReady()
}

// StartEmpty starts the server again, after Kill, with nothing on disk but its
// configuration.
func (s *Server) StartEmpty() {
	s.t.Helper()
	for _, pattern := range []string{"version-2", "data", "dump.rdb", "appendonly*"} {
		found, err := filepath.Glob(filepath.Join(s.dir, pattern))
		if err != nil {
			s.t.Fatal(err)
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	s.Start()
}

func (s *Server) launch() {
	s.t.Helper()
	s.run()
	s.t.Cleanup(s.Kill)
}

func (s *Server) run() {
	s.t.Helper()
	out, err := os.OpenFile(filepath.Join(s.dir, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer out.Close()
	s.cmd = exec.Command(s.argv[0], s.argv[1:]...)
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, out, out
	s.cmd.Env = append(os.Environ(), s.env...)
	s.cmd.SysProcAttr = s.attr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *Server) awaitReady() {
	s.t.Helper()
	for end := time.Now().Add(2 * patience); !s.ready(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			out, _ := os.ReadFile(filepath.Join(s.dir, "out"))
			s.t.Fatalf("%s does not answer at %s:\n%s", s.argv[0], s.Address, out)
		}
	}
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.everyone(syscall.SIGCONT) //nolint:errcheck // it may have ended
	if s.quit != 0 {
		s.cmd.Process.Signal(s.quit) //nolint:errcheck // it may have ended
		late := time.AfterFunc(patience, func() { s.cmd.Process.Kill() })
		defer late.Stop()
	} else {
		s.cmd.Process.Kill() //nolint:errcheck // it may have ended
	}
	s.cmd.Wait() //nolint:errcheck // it was killed
	s.cmd = nil
}

// Freeze has the server stand still, until Thaw or the end of the test.
func (s *Server) Freeze() { s.signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (s *Server) Thaw() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(signal syscall.Signal) {
	s.t.Helper()
	if err := s.everyone(signal); err != nil {
		s.t.Fatal(err)
	}
}

// everyone signals the server, and the processes that serve for it.
func (s *Server) everyone(signal syscall.Signal) error {
	if err := s.cmd.Process.Signal(signal); err != nil || !s.family {
		return err
	}
	for _, pid := range children(s.cmd.Process.Pid) {
		syscall.Kill(pid, signal) //nolint:errcheck // it may have ended
	}
	return nil
}

func need(t testing.TB, command string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		missing(t, command)
	}
}

func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what + " is not installed")
	}
	t.Skip(what + " is not installed")
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// hasLoaded asks a redis-server whether it answers, whatever it says.
func hasLoaded(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(2 * time.Second)) //nolint:errcheck // then it does not answer
	io.WriteString(conn, "PING\r\n")                  //nolint:errcheck // then it does not answer
	answer := make([]byte, 100)
	n, err := conn.Read(answer)
	return err == nil && !strings.HasPrefix(string(answer[:n]), "-LOADING")
}

// hasLeader asks an etcd member.
func hasLeader(address string) bool {
	response, err := http.Get("http://" + address + "/health")
	if err != nil {
		return false
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return err == nil && strings.Contains(string(answer), `"true"`)
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
