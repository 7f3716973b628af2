package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"lanekeeper/lock/locktest"
)

// validateOnline runs the command on a file with a coordinator section, in block
// style, and returns its exit code and what it finds, without the place.
func validateOnline(t *testing.T, section string) (code int, findings []string) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("lk.yaml", []byte("coordinator:\n"+section+"\n"+someApp), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := runArgs(t, "validate", "--online", "lk.yaml")
	if errs != "" {
		t.Errorf("stderr: %s", errs)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return code, lines[:len(lines)-1] // the last one counts
}

// An onlineTest is a section and what each finding has, in order.
type onlineTest struct {
	name, section string
	want          []finding
}

type finding struct{ head, says, advises string }

func runOnlineTests(t *testing.T, tests []onlineTest) {
	t.Helper()
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			code, have := validateOnline(t, test.section)
			t.Log(strings.Join(have, "\n"))
			wantCode := exitOK
			for _, f := range test.want {
				if strings.Contains(f.head, "error: ") {
					wantCode = exitConfig
				}
			}
			if code != wantCode || len(have) != len(test.want) {
				t.Fatalf("got code %d, %d findings, want %d, %d", code, len(have), wantCode, len(test.want))
			}
			for i, f := range test.want {
				if !strings.HasPrefix(have[i], "lk.yaml:"+f.head) || !strings.Contains(have[i], f.says) || !strings.Contains(have[i], f.advises) {
					t.Errorf("got %s\nwant %+v", have[i], f)
				}
			}
		})
	}
}

// nobody is an address where nothing listens.
const nobody = "127.0.0.1:1"

// webServer is the address of a server of another kind.
func webServer(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// silentServer takes connections, and says nothing.
func silentServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.Addr().String()
}

// rudeServer refuses whatever it is sent, in the words of another protocol.
func rudeServer(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() { // ends with the listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
			io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n") //nolint:errcheck // then it is silent
		}
	}()
	return listener.Addr().String()
}

// Nobody is asked without --online, nor about a file that is wrong.
//
// Mutants killed: online is on by default; a file with errors is asked about.
func TestValidateAsksNobodyUnasked(t *testing.T) {
	t.Chdir(t.TempDir())
	const asks = "coordinator: {type: redis, redis: {addresses: [\"" + nobody + "\"], password_file: /does/not/exist}}\n"
	for name, content := range map[string]string{"good.yaml": asks + someApp, "bad.yaml": "nothing: 1\n" + asks + someApp, "none.yaml": someApp} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args string
		code int
		want string
	}{
		{"good.yaml", exitOK, "0 errors, 0 warnings\n"},
		{"--online none.yaml", exitOK, "0 errors, 0 warnings\n"},
		{"--online bad.yaml", exitConfig, "bad.yaml:1:1: error: nothing: unknown field\n1 error, 0 warnings\n"},
		{"--online good.yaml", exitConfig, "good.yaml:1:64: error: coordinator.redis.password_file: stat /does/not/exist: no such file or directory\n1 error, 0 warnings\n"},
	} {
		code, out, _ := runArgs(t, append([]string{"validate"}, strings.Fields(test.args)...)...)
		if code != test.code || out != test.want {
			t.Errorf("%s: got %d\n%s\nwant %d\n%s", test.args, code, out, test.code, test.want)
		}
	}
}

// Mutants killed: Begin is left out; the version, the role or the policy is not
// looked at; an error is found at another setting.
func TestValidateRedisOnline(t *testing.T) {
	plain := locktest.Redis(t).Address
	secret := locktest.Redis(t, "--requirepass", "right").Address
	evicts := locktest.Redis(t, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru").Address
	host, port, _ := net.SplitHostPort(plain)
	replica := locktest.Redis(t, "--replicaof", host+" "+port).Address
	readOnly := locktest.Redis(t, "--min-replicas-to-write", "1").Address
	web, silent := webServer(t), silentServer(t)
	right, wrong := secretFile(t, "right", "right\n"), secretFile(t, "wrong", "wr0ng\n")
	redis := func(address, more string) string {
		return "  type: redis\n  redis:\n    addresses:\n      - \"" + address + "\"\n" + more
	}
	const address = "5:9: error: coordinator.redis.addresses[0]: "
	runOnlineTests(t, []onlineTest{
		{"good", redis(plain, ""), nil},
		{"a password", redis(secret, "    password_file: "+right), nil},
		{"no password", redis(secret, ""), []finding{{"3:3: error: coordinator.redis.password_file: ", secret + ": user name and password: NOAUTH", "check username and password_file"}}},
		{"a wrong password", redis(secret, "    password_file: "+wrong), []finding{{"6:5: error: coordinator.redis.password_file: ", secret + ": user name and password: WRONGPASS", "check username and password_file"}}},
		{"it evicts", redis(evicts, ""), []finding{{address, evicts + ": it evicts keys", "set noeviction"}}},
		{"a replica", redis(replica, ""), []finding{{address, replica + ": it is a slave", "give the master's address"}}},
		{"it takes no writes", redis(readOnly, "  acquire_timeout: 500ms"), []finding{{address, "NOREPLICAS", "min-replicas-to-write"}}},
		{"nobody there", redis(nobody, ""), []finding{{address, "connection refused", "check the host and the port"}}},
		{"no such host", redis("no-such-host.invalid:6379", ""), []finding{{address, "no-such-host.invalid", "check the host"}}},
		{"a web server", redis(web, ""), []finding{{address, web + ": what listens there is no Redis server", "give the host and port of a Redis server"}}},
		{"silent", redis(silent, "  acquire_timeout: 300ms"), []finding{{address, silent + ": it does not answer", "whether TLS is spoken there"}}},
		{"no such database", redis(plain, "    db: 99"), []finding{{"6:5: error: coordinator.redis.db: ", "DB index is out of range", "write a number that the server has"}}},
	})
}

// Mutants killed: TLS is not passed on; what the certificate is for is not
// verified.
func TestValidateRedisOverTLSOnline(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	a.sign("server", serverCertificate())
	secure, plain := tlsRedis(t, a, "no"), locktest.Redis(t).Address
	redis := func(address, tls string) string {
		return "  type: redis\n  redis:\n    addresses: [\"" + address + "\"]\n    tls: {" + tls + "}\n"
	}
	const at = "5:5: error: coordinator.redis.tls: "
	runOnlineTests(t, []onlineTest{
		{"good", redis(secure, "ca_file: "+a.file("ca.crt")), nil},
		{"by name", redis(secure, "server_name: redis.test, ca_file: "+a.file("ca.crt")), nil},
		{"another name", redis(secure, "server_name: redis.prod, ca_file: "+a.file("ca.crt")), []finding{{at, "redis.prod", "set tls.server_name"}}},
		{"another authority", redis(secure, "ca_file: "+other.file("ca.crt")), []finding{{at, "unknown authority", "check tls.ca_file"}}},
		{"this machine's authorities", redis(secure, "server_name: redis.test"), []finding{{at, "unknown authority", "check tls.ca_file"}}},
		{"it has no TLS", redis(plain, "server_name: redis.test") + "  acquire_timeout: 500ms", []finding{{"4:17: error: coordinator.redis.addresses[0]: ", plain, "whether TLS is spoken there"}}},
		{"it has", redis(secure, ""), []finding{{"4:17: error: coordinator.redis.addresses[0]: ", secure, "whether TLS is spoken there"}}},
	})
}

// Mutants killed: one member that is away keeps the others from being used; an
// error is found at another setting.
func TestValidateEtcdOnline(t *testing.T) {
	member := locktest.Etcd(t, 1)[0].Address
	web := webServer(t)
	password := secretFile(t, "password", "wr0ng\n")
	etcd := func(more string, endpoints ...string) string {
		return "  type: etcd\n  etcd:\n    endpoints:\n      - \"" + strings.Join(endpoints, "\"\n      - \"") + "\"\n" + more
	}
	runOnlineTests(t, []onlineTest{
		{"good", etcd("", member), nil},
		{"by URL", etcd("", "http://"+member), nil},
		{"nobody there", etcd("  acquire_timeout: 1s", nobody), []finding{{"5:9: error: coordinator.etcd.endpoints[0]: ", nobody + ": nothing listens there", "check the host and the port"}}},
		{"one of two away", etcd("  acquire_timeout: 1s", nobody, member), []finding{{"5:9: warning: coordinator.etcd.endpoints[0]: ", nobody + ": nothing listens there", "check the host and the port"}}},
		{"a web server", etcd("  acquire_timeout: 1s", web), []finding{{"5:9: error: coordinator.etcd.endpoints[0]: ", web + ": what listens there does not answer as etcd does", "with https:// if it wants TLS"}}},
		{"a web server beside it", etcd("  acquire_timeout: 1s", member, web), []finding{{"6:9: error: coordinator.etcd.endpoints[1]: ", "as etcd does", ""}}},
		{"it has no TLS", etcd("  acquire_timeout: 1s", "https://"+member), []finding{{"3:3: error: coordinator.etcd.tls: ", member, ""}}},
		{"it has no users", etcd("    username: u\n    password_file: "+password, member), nil}, // so nobody can be the wrong one
	})

	for _, step := range [][2]string{
		{"user/add", `{"name": "root", "password": "root"}`}, {"user/grant", `{"user": "root", "role": "root"}`},
		{"user/add", `{"name": "lk", "password": "right"}`}, {"enable", `{}`},
	} {
		answer, err := http.Post("http://"+member+"/v3/auth/"+step[0], "application/json", strings.NewReader(step[1]))
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", step[0], answer.Status)
		}
	}
	right := secretFile(t, "right", "right\n")
	root := secretFile(t, "root", "root\n")
	runOnlineTests(t, []onlineTest{
		{"a user who may", etcd("    username: root\n    password_file: "+root, member), nil},
		{"a user who may not", etcd("    username: lk\n    password_file: "+right, member), []finding{{"6:5: error: coordinator.etcd.username: ", "may not do what locks need", "grant it all keys below coordinator.key_prefix"}}},
		{"a wrong password", etcd("    username: root\n    password_file: "+password, member), []finding{{"7:5: error: coordinator.etcd.password_file: ", "user name and password", "check username and password_file"}}},
		{"no password", etcd("", member), []finding{{"3:3: error: coordinator.etcd.password_file: ", "user name and password", "check username and password_file"}}},
	})
}

// Mutants killed: the timeout of sessions is found at an address; the user is not
// passed on.
func TestValidateZooKeeperOnline(t *testing.T) {
	server := locktest.ZooKeeper(t, 1)[0].Address
	right, wrong := secretFile(t, "right", "right\n"), secretFile(t, "wrong", "wr0ng\n")
	zookeeper := func(more string, servers ...string) string {
		return "  type: zookeeper\n  acquire_timeout: 5s\n  zookeeper:\n    servers:\n      - \"" + strings.Join(servers, "\"\n      - \"") + "\"\n" + more
	}
	as := func(file string) string {
		return "    username: u\n    password_file: " + file + "\n  key_prefix: /secret"
	}
	const address = "6:9: error: coordinator.zookeeper.servers[0]: "
	runOnlineTests(t, []onlineTest{
		{"good", zookeeper("", server), nil},
		{"a user", zookeeper(as(right), server), nil},
		{"another password", zookeeper(as(wrong), server), []finding{{"8:5: error: coordinator.zookeeper.password_file: ", "they are not those of who made /secret", "check username and password_file"}}},
		{"no password", zookeeper("  key_prefix: /secret", server), []finding{{"4:3: error: coordinator.zookeeper.password_file: ", "a user name and password are needed", ""}}},
		{"too long a lease", zookeeper("  lease_ttl: 1m", server), []finding{{"7:3: error: coordinator.lease_ttl: ", "it has sessions last 40s, not the 1m0s of a lease", "maxSessionTimeout"}}},
		{"too short a lease", zookeeper("  lease_ttl: 600ms\n  safety_margin: 100ms", server), []finding{{"7:3: error: coordinator.lease_ttl: ", "it has sessions last 1s", "minSessionTimeout"}}},
		{"nobody there", zookeeper("", nobody), []finding{{address, nobody + ": ", "connection refused"}}},
		{"one of two away", zookeeper("", nobody, server), []finding{{"6:9: warning: coordinator.zookeeper.servers[0]: ", "connection refused", "check the host and the port"}}},
		{"silent", zookeeper("", silentServer(t)), []finding{{address, "it does not answer", "whether TLS is spoken there"}}},
		{"a server of another kind", zookeeper("", rudeServer(t)), []finding{{address, "what listens there is no ZooKeeper", "give the host and client port of a ZooKeeper server"}}},
	})
}

// Mutants killed: one master under two names passes; a minority that is away is
// an error, or a majority is a warning.
func TestValidateRedlockOnline(t *testing.T) {
	var masters []string
	for range 3 {
		masters = append(masters, locktest.Redis(t).Address)
	}
	redlock := func(addresses ...string) string {
		return "  type: redlock\n  redlock:\n    addresses:\n      - \"" + strings.Join(addresses, "\"\n      - \"") + "\"\n"
	}
	unused := finding{"2:3: warning: coordinator.type: ", "redlock is used for nothing", ""}
	_, port, _ := net.SplitHostPort(masters[0])
	runOnlineTests(t, []onlineTest{
		{"good", redlock(masters...), []finding{unused}},
		{"one is away", redlock(masters[0], nobody, masters[2]), []finding{unused, {"6:9: warning: coordinator.redlock.addresses[1]: ", "refused", ""}}},
		{"two are away", redlock(masters[0], nobody, "127.0.0.1:2"), []finding{
			unused, {"6:9: error: coordinator.redlock.addresses[1]: ", "refused", ""}, {"7:9: error: coordinator.redlock.addresses[2]: ", "refused", ""},
		}},
		{"one is given twice", redlock(masters[0], masters[1], "localhost:"+port), []finding{unused, {"4:5: error: coordinator.redlock.addresses: ", "it is the same server as", ""}}},
	})
}

// Stores of records are asked if a route uses them, and not changed.
//
// Mutant killed: tables that a node will create are missed.
func TestValidateRecordsOnline(t *testing.T) {
	redis, replicaOf := locktest.Redis(t).Address, locktest.Redis(t).Address
	host, port, _ := net.SplitHostPort(replicaOf)
	replica := locktest.Redis(t, "--replicaof", host+" "+port).Address
	secret := locktest.Redis(t, "--requirepass", "right").Address
	dsn := func(address string) string {
		return secretFile(t, "dsn", "postgres://postgres@"+address+"/postgres?sslmode=disable\n")
	}
	database := dsn(locktest.Postgres(t).Address)
	t.Chdir(t.TempDir())
	for _, test := range []struct{ name, use, stores, want, says string }{
		{"redis", "idempotency: {mode: optional, store: redis}", "redis: {addresses: [\"" + redis + "\"]}", "", ""},
		{"a replica", "idempotency: {mode: optional, store: redis}", "redis: {addresses: [\"" + replica + "\"]}", "error: stores.redis.addresses[0]: " + replica + ": it is a slave", "give the master's address"},
		{"no password", "sequence: {mode: optional, store: redis}", "redis: {addresses: [\"" + secret + "\"]}", "error: stores.redis.password_file: " + secret + ": user name and password", "check username and password_file"},
		{"nobody there", "sequence: {mode: optional, store: redis}", "redis: {addresses: [\"" + nobody + "\"]}", "error: stores.redis.addresses[0]: " + nobody, "check the host and the port"},
		{"not used", "lane: {}", "redis: {addresses: [\"" + nobody + "\"]}", "", ""},
		{"tables to come", "idempotency: {mode: optional, store: postgres}", "postgres: {dsn_file: " + database + ", create_table: true}", "", ""},
		{"no tables", "idempotency: {mode: optional, store: postgres}", "postgres: {dsn_file: " + database + ", create_table: false}", "error: stores.postgres.table: ", "there is no table"},
		{"no database", "idempotency: {mode: optional, store: postgres}", "postgres: {dsn_file: " + dsn(nobody) + "}", "error: stores.postgres.dsn_file: ", "check what the file says"},
	} {
		writeFile(t, "lk.yaml", "stores: {"+test.stores+"}\nupstreams: [{name: app, targets: [\"http://127.0.0.1:1\"]}]\nroutes:\n  - {name: r, match: {path: \"/{id}\"}, upstream: app, key: {space: s, from: [{path: id}]}, "+test.use+"}\n")
		code, out, _ := runArgs(t, "validate", "--online", "lk.yaml")
		wantCode := exitConfig
		if test.want == "" {
			wantCode = exitOK
		}
		if code != wantCode || !strings.Contains(out, test.want) || !strings.Contains(out, test.says) || strings.Contains(out, "error:") != (test.want != "") {
			t.Errorf("%s: got %d\n%s", test.name, code, out)
		}
	}
}

func TestValidateOnlineReadsUpstreamFiles(t *testing.T) {
	t.Chdir(t.TempDir())
	text := someRoute + "upstreams:\n  - name: app\n    targets: [\"https://a:1\"]\n    tls: {ca_file: none.pem}\n"
	if err := os.WriteFile("lk.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, _ := runArgs(t, "validate", "--online", "lk.yaml")
	if want := "lk.yaml:5:5: error: upstreams[0].tls: upstream app: tls.ca_file: open none.pem"; code != exitConfig || !strings.HasPrefix(out, want) {
		t.Errorf("got %d %s", code, out)
	}
	if code, out, _ := runArgs(t, "validate", "lk.yaml"); code != exitOK {
		t.Errorf("without --online: %d %s", code, out)
	}
}
