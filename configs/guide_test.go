package configs

import (
	"bytes"
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// pages are what a user reads, from the top of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	all := []string{"README.md"}
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if strings.HasSuffix(path, ".md") {
			all = append(all, filepath.Join("configs", path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func readPage(t *testing.T, page string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", page))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLinksLead: every link to a file of the repository, and to a heading of one, leads
// somewhere. Mutants: a link to a page that does not exist; to a heading of another name.
func TestLinksLead(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s:#]*)(?:#([^)\s]*))?\)`)
	for _, page := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(readPage(t, page), -1) {
			target := page
			if m[1] != "" {
				target = filepath.Join(filepath.Dir(page), m[1])
			}
			if _, err := os.Stat(filepath.Join("..", target)); err != nil {
				t.Errorf("%s links to %s: %v", page, m[0], err)
				continue
			}
			if m[2] != "" && !slices.Contains(anchors(readPage(t, target)), m[2]) {
				t.Errorf("%s links to %s: there is no such heading", page, m[0])
			}
		}
	}
}

// anchors are the names that a renderer gives to a page's headings.
func anchors(text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(text, -1) {
		name := regexp.MustCompile("[^a-z0-9 -]").ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// TestFiguresHaveTheirCommands: a command that measures something names a package, and
// tests, benchmarks and flags, that exist. Mutants: a package, a test, a flag of another
// name in numbers.md.
func TestFiguresHaveTheirCommands(t *testing.T) {
	command := regexp.MustCompile("`go test ([^`]*)`")
	count := 0
	for _, page := range pages(t) {
		for _, m := range command.FindAllStringSubmatch(readPage(t, page), -1) {
			count++
			checkGoTest(t, page, m[0], strings.Fields(m[1]))
		}
	}
	if count < 15 {
		t.Errorf("there are %d commands: are they still written so?", count)
	}
}

func checkGoTest(t *testing.T, page, whole string, words []string) {
	t.Helper()
	var sources strings.Builder
	for _, word := range words {
		if !strings.HasPrefix(word, "./") {
			continue
		}
		files, _ := filepath.Glob(filepath.Join("..", word, "*_test.go"))
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(text)
		}
	}
	if sources.Len() == 0 {
		t.Errorf("%s: %s: there are no tests there", page, whole)
	}
	for i, word := range words {
		word = strings.Trim(word, "'")
		own := strings.TrimLeft(word, "-")
		switch {
		case word == "-run" || word == "-bench":
			pattern := strings.Trim(words[i+1], "'")
			kind := map[string]string{"-run": "Test", "-bench": "Benchmark"}[word]
			if !matches(sources.String(), kind, pattern) && pattern != "^$" {
				t.Errorf("%s: %s: nothing is called %s", page, whole, pattern)
			}
		case strings.HasPrefix(word, "-") && !slices.Contains([]string{"v", "benchtime", "benchmem", "cpu", "timeout", "count"}, own):
			if !strings.Contains(sources.String(), `"`+own+`"`) {
				t.Errorf("%s: %s: there is no flag %s", page, whole, word)
			}
		}
	}
}

func matches(source, kind, pattern string) bool {
	for _, m := range regexp.MustCompile(`(?m)^func (`+kind+`\w*)\(`).FindAllStringSubmatch(source, -1) {
		if regexp.MustCompile(pattern).MatchString(m[1]) {
			return true
		}
	}
	return false
}

// needs is what a block of commands may need that there is not here: those are not run.
var needs = regexp.MustCompile(`\b(docker|kubectl|systemctl|apt-get|dpkg|rpm)\b|test\.sh`)

// TestCommandsRun runs every ```sh block of every page, in a copy of the repository and in
// a network of its own, where all ports are free. A page's blocks run one after the other,
// for a page that starts no node with one on this machine, and a service behind it. A line that begins with "lanekeeper serve" or "lanekeeper witness"
// stays while the block runs. Mutants: an unknown flag in any block; a command that exits
// with 1; a cluster.min_members that the nodes of local.yaml never have.
func TestCommandsRun(t *testing.T) {
	if runtime.GOOS != "linux" || os.Getuid() != 0 || exec.Command("unshare", "-n", "-p", "-f", "true").Run() != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("a network namespace is needed: as root on Linux, with unshare")
		}
		t.Skip("needs root on Linux, for a network namespace")
	}
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", bin, "lanekeeper/cmd/lanekeeper").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, page := range pages(t) {
		t.Run(strings.TrimSuffix(strings.ReplaceAll(page, "/", "-"), ".md"), func(t *testing.T) { runPage(t, page, bin) })
	}
}

func runPage(t *testing.T, page, bin string) {
	t.Parallel()
	text := readPage(t, page)
	var script strings.Builder
	script.WriteString(preamble)
	if !stays.MatchString(text) {
		script.WriteString(world)
	}
	ran := 0
	for _, block := range regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```$").FindAllStringSubmatch(text, -1) {
		if needs.MatchString(block[1]) {
			continue
		}
		ran++
		script.WriteString(stays.ReplaceAllString(unindented(block[1]), "${1}up $2"))
		script.WriteString("\ndown\n")
	}
	if ran == 0 {
		t.Skip("it has none")
	}
	dir := t.TempDir()
	if err := copyRepository(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "unshare", "-n", "-p", "-f", "--kill-child", "bash", "-c", script.String())
	command.Dir = dir
	command.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "GOPROXY=off", "GOFLAGS=-buildvcs=false")
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	command.WaitDelay = 5 * time.Second
	if err := command.Run(); err != nil {
		t.Errorf("%s: %v\n%s", page, err, out.String())
	}
}

// unindented is a block without the indentation of the list that it stands in.
func unindented(block string) string {
	indent := block[:len(block)-len(strings.TrimLeft(block, " "))]
	return strings.ReplaceAll("\n"+block, "\n"+indent, "\n")
}

// stays is a line of a program that goes on until it is stopped.
var stays = regexp.MustCompile(`(?m)^ *((?:[A-Z]+=\S+ )?)(?:\./)?lanekeeper ((?:serve|witness --|witness$|witness +&|witness +#).*?)(?: +&)?(?: +#.*)?$`)

// preamble makes the network, the service, and the words that the blocks use.
const preamble = `
set -euo pipefail
ip link set lo up
pids=()
up() {
	lanekeeper "$@" >/dev/null 2>>errors &
	pids+=($!)
	local port=${N:-}7941/livez # as configs/local.yaml has it
	if [ "$1" = witness ]; then port=7950/; fi
	for _ in $(seq 100); do
		if curl -s -o /dev/null "http://127.0.0.1:$port"; then return; fi
		sleep 0.1
	done
	cat errors; exit 1
}
down() { # what the block has started
	if [ ${#pids[@]} -gt $kept ]; then kill -9 "${pids[@]:$kept}"; wait "${pids[@]:$kept}" 2>/dev/null || true; fi
	pids=("${pids[@]:0:$kept}")
}
kept=0
set -x
`

// world is a node in front of a service, with a request that takes its time.
const world = `
cat > world.yaml <<'END'
upstreams: [{name: app, targets: ["http://127.0.0.1:7950"]}]
routes: [{name: orders, match: {path: "/orders/{id}/{rest...}"}, upstream: app, key: {space: order, from: [{path: id}]}}]
END
up witness --delay 1ms
up serve --config world.yaml
curl -fsS -X POST -H 'Witness-Delay: 5s' http://127.0.0.1:7940/orders/7/items >/dev/null &
kept=2
`

// copyRepository copies what a checkout holds.
func copyRepository(to string) error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(path, ".."), string(filepath.Separator))
		if entry.IsDir() {
			if entry.Name() == ".git" || entry.Name() == "node_modules" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), text, info.Mode().Perm())
	})
}
