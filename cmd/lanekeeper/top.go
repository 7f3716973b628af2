package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/term"
	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

func topCommand() *cobra.Command {
	var o adminOptions
	var by string
	var once bool
	var every time.Duration
	command := &cobra.Command{
		Use:   "top",
		Short: "Watch the keys with most to do",
		Long: `Top shows what the cluster does, and its keys with most to do, again every second:
those that are hot, and those with most requests lately, as keys does. WAIT and
upstream in the second line are of the last second or so. The graph is what waited
at its last looks. With --node it is that member's alone.

Keys: q ends it, s sorts by the next of depth, rate and wait, / takes a filter (a
part of space/key or route; enter keeps it, escape drops it), space stops and goes
on.

With --once, or if standard output is no terminal, it writes that down once and
ends; so it does for -o json and yaml.` + adminHelp,
		Example: `  lanekeeper top
  lanekeeper top --admin http://10.1.4.8:7942 --token-file token --sort wait
  lanekeeper top --once --no-headers | head -3`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keyOrders[by] == nil {
				return fmt.Errorf("--sort %s: want depth, rate or wait", by)
			}
			if every < 100*time.Millisecond {
				return fmt.Errorf("--every %s: want at least 100ms", every)
			}
			client, err := o.client()
			if err != nil {
				return err
			}
			ctx, restore := signal.NotifyContext(cmd.Context(), syscall.SIGTERM)
			defer restore()
			first, err := client.overview(ctx) // so that a wrong address is an exit code
			if err != nil {
				return err
			}
			m := &top{ask: client.overview, every: every, order: by, wide: o.output == "wide", coloured: colours(cmd.OutOrStdout())}
			m.take(first)
			text := o.output == "table" || o.output == "wide"
			if once || !text || !drawable(cmd.OutOrStdout()) {
				return m.once(cmd, &o)
			}
			return m.live(ctx, tea.WithOutput(cmd.OutOrStdout()))
		},
	}
	flags := command.Flags()
	flags.StringVar(&by, "sort", "depth", "`order` of the keys, the most first: depth, rate or wait")
	flags.BoolVar(&once, "once", false, "write it down once and end")
	flags.DurationVar(&every, "every", time.Second, "between two looks")
	o.bindNode(command, oneNode)
	return command
}

// drawable reports whether w can be drawn upon. /dev/null, which is a device, too,
// cannot.
func drawable(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(file.Fd()) && os.Getenv("TERM") != "dumb"
}

// overview is what a node says of itself at one look.
type overview struct {
	status  admin.Status
	members admin.Members
	hot     admin.Hot
	at      time.Time
	answer  []byte // all of it, as it came
}

func (c *adminClient) overview(ctx context.Context) (*overview, error) {
	v := &overview{}
	var answers struct {
		Status  json.RawMessage `json:"status"`
		Members json.RawMessage `json:"members"`
		Hot     json.RawMessage `json:"hot"`
	}
	for _, part := range []struct {
		path   string
		into   any
		answer *json.RawMessage
	}{{"status", &v.status, &answers.Status}, {"members", &v.members, &answers.Members}, {"hot", &v.hot, &answers.Hot}} {
		of := *c
		if part.path == "members" { // as the node sees them that is asked
			of.node = ""
		}
		answer, err := of.ask(ctx, http.MethodGet, part.path, nil, part.into)
		if err != nil {
			return nil, err
		}
		*part.answer = answer
	}
	var err error
	v.at = time.Now()
	v.answer, err = json.Marshal(answers)
	return v, err
}

// top is the screen, as bubbletea's model. Update and View are called by one
// goroutine.
type top struct {
	ask      func(context.Context) (*overview, error)
	ctx      context.Context // of the asking; the program's life
	every    time.Duration
	order    string
	wide     bool
	coloured bool

	width, height int // of the terminal; 0 = not known yet

	filter  string
	editing bool // the filter
	paused  bool
	asking  bool

	last    *overview
	failure error // of the last look
	waiting []int // at the last looks
}

// graphWidth is how many looks the graph shows.
const graphWidth = 40

func (m *top) take(v *overview) {
	m.last, m.failure = v, nil
	m.waiting = append(m.waiting, numbersOf(&v.status).Waiting)
	m.waiting = m.waiting[max(0, len(m.waiting)-graphWidth):]
}

// live draws until somebody has seen enough.
func (m *top) live(ctx context.Context, options ...tea.ProgramOption) error {
	m.ctx = ctx
	_, err := tea.NewProgram(m, append(options, tea.WithContext(ctx), tea.WithoutSignalHandler())...).Run()
	if err != nil && ctx.Err() == nil {
		return failure(err)
	}
	return nil
}

// once writes the screen down.
func (m *top) once(cmd *cobra.Command, o *adminOptions) error {
	if o.output == "table" || o.output == "wide" {
		if !o.noHeaders {
			for _, line := range m.summary() {
				fmt.Fprintln(cmd.OutOrStdout(), line)
			}
		}
		for _, warning := range m.warnings() {
			fmt.Fprintln(cmd.ErrOrStderr(), "! "+warning)
		}
	}
	return o.write(cmd, m.last.answer, m.table())
}

type (
	tick   struct{}
	looked struct {
		overview *overview
		err      error
	}
)

func (m *top) later() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return tick{} })
}

// Init implements tea.Model.
func (m *top) Init() tea.Cmd { return m.later() }

// look asks the node, on a goroutine of bubbletea's.
func (m *top) look() tea.Cmd {
	if m.asking || m.paused {
		return nil
	}
	m.asking = true
	ask, ctx := m.ask, m.ctx
	return func() tea.Msg {
		v, err := ask(ctx)
		return looked{v, err}
	}
}

// Update implements tea.Model.
func (m *top) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case tick: // they go on while it is paused, so that there is never a second row of them
		return m, tea.Batch(m.later(), m.look())
	case looked:
		m.asking = false
		switch {
		case m.paused: // what is on the screen stays
		case msg.err != nil:
			m.failure = msg.err
		default:
			m.take(msg.overview)
		}
	case tea.PasteMsg:
		if m.editing {
			m.filter += printable(msg.Content)
		}
	case tea.KeyPressMsg:
		if msg.String() == "ctrl+c" {
			return m, tea.Quit
		}
		if m.editing {
			m.edit(msg)
			return m, nil
		}
		return m, m.press(msg)
	}
	return m, nil
}

func (m *top) press(key tea.KeyPressMsg) tea.Cmd {
	switch key.String() {
	case "q":
		return tea.Quit
	case "s":
		m.order = map[string]string{"depth": "rate", "rate": "wait", "wait": "depth"}[m.order]
	case "/":
		m.editing = true
	case "esc":
		m.filter = ""
	case "space":
		m.paused = !m.paused
		return m.look()
	}
	return nil
}

// edit takes a key of the filter.
func (m *top) edit(key tea.KeyPressMsg) {
	switch key.String() {
	case "enter":
		m.editing = false
	case "esc":
		m.editing, m.filter = false, ""
	case "backspace":
		if text := []rune(m.filter); len(text) > 0 {
			m.filter = string(text[:len(text)-1])
		}
	case "ctrl+u":
		m.filter = ""
	default:
		m.filter += printable(key.Text)
	}
}

// View implements tea.Model.
func (m *top) View() tea.View {
	var lines []string
	add := func(mark mark, text string) { lines = append(lines, m.line(mark, text)) }
	for _, text := range m.summary() {
		add(unmarked, text)
	}
	if m.failure != nil {
		add(failing, "! "+printable(m.failure.Error())+"; what follows is of "+m.last.at.Format(time.TimeOnly))
	}
	for _, warning := range m.warnings() {
		add(caution, "! "+warning)
	}
	text, marks := m.table().lines(true)
	for i := range text {
		if room := m.height - 1; m.height > 0 && len(lines) == room-1 && i < len(text)-1 {
			add(unmarked, fmt.Sprintf("… %d more", len(text)-i))
			break
		}
		add(marks[i], text[i])
	}
	for len(lines) < m.height-1 {
		lines = append(lines, "")
	}
	add(unmarked, m.help())
	view := tea.NewView(strings.Join(lines, "\n"))
	view.AltScreen = true
	return view
}

// line is cut to the terminal's width before it gets its colour.
func (m *top) line(mark mark, text string) string {
	if runes := []rune(text); m.width > 0 && len(runes) > m.width {
		text = string(runes[:m.width])
	}
	if !m.coloured {
		return text
	}
	return mark.on(text)
}

func (m *top) help() string {
	switch {
	case m.editing:
		return "filter: " + m.filter + "▏ enter keeps it, esc drops it"
	case m.paused:
		return "paused at " + m.last.at.Format(time.TimeOnly) + ": space goes on, q quits"
	}
	return "q quit · s sort: " + m.order + " · / filter" + strings.TrimSuffix(": "+m.filter, ": ") + " · space pause"
}

func (m *top) table() *table {
	return keysTable(&m.last.hot, keyView{order: keyOrders[m.order], wide: m.wide, bars: true, filter: m.filter}, m.last.at)
}

// summary is the cluster in three lines, or the one node that is meant.
func (m *top) summary() []string {
	s, members := &m.last.status, &m.last.members
	cluster := "without a cluster"
	if s.Cluster != "" {
		draining := 0
		for _, member := range members.Members {
			if member.State == admin.StateDraining {
				draining++
			}
		}
		cluster = fmt.Sprintf("%s: %s, %d draining  ring v%d", printable(s.Cluster), plural(s.Members, "member"), draining, s.RingVersion)
	}
	n := numbersOf(s)
	return []string{
		fmt.Sprintf("lanekeeper %s  %s  %s  violations %d", printable(s.Version), cluster, perSecond(n.Rate), n.Violations),
		fmt.Sprintf("%s  queued %d in %s  running %d  held %d  hot %d  halted %d%s",
			m.readiness(n), n.Waiting, plural(n.Lanes, "lane"), n.Running, n.Held+n.Stopped, n.Hot, n.Halted, graph(m.waiting)),
		fmt.Sprintf("wait p50 %s p99 %s │ upstream p50 %s p99 %s │ oldest wait %s", estimate(n.LaneWait.P50), estimate(n.LaneWait.P99),
			estimate(n.Upstream.P50), estimate(n.Upstream.P99), estimate(n.OldestWait)),
	}
}

// readiness is who takes part in what the numbers say.
func (m *top) readiness(n *admin.Numbers) string {
	s := &m.last.status
	switch {
	case n.Answered < n.Members && len(n.Silent) > 0:
		return fmt.Sprintf("%d of %d answered", n.Answered, n.Members)
	case s.DrainingSince != nil && n.Members <= 1:
		return "draining for " + roughly(m.last.at.Sub(*s.DrainingSince))
	case n.Ready == n.Answered:
		return "ready"
	case n.Answered <= 1:
		return "not ready"
	}
	return fmt.Sprintf("%d of %d ready", n.Ready, n.Answered)
}

// numbersOf is what the status adds up to.
func numbersOf(s *admin.Status) *admin.Numbers {
	if s.Numbers != nil {
		return s.Numbers
	}
	ready := 0
	if s.Ready {
		ready = 1
	}
	return &admin.Numbers{
		Members: 1, Answered: 1, Ready: ready,
		Rate: s.Rate, Lanes: s.Lanes, Waiting: s.Waiting, Running: s.Running, Held: s.Held, Stopped: s.Stopped, Halted: s.Halted, Hot: s.Hot,
		OldestWait: s.OldestWait, Violations: s.Violations, LaneWait: s.LaneWait, Upstream: s.Upstream,
	}
}

func (m *top) warnings() []string {
	return append(statusWarnings(&m.last.status), membersWarnings(&m.last.members)...)
}

// graph draws numbers as columns of eight heights, of which the highest is the
// largest number. One number alone says nothing.
func graph(values []int) string {
	if len(values) < 2 {
		return ""
	}
	highest := 0
	for _, v := range values {
		highest = max(highest, v)
	}
	var out strings.Builder
	out.WriteString("  ")
	for _, v := range values {
		out.WriteRune([]rune("▁▂▃▄▅▆▇█")[7*v/max(highest, 1)])
	}
	return out.String()
}
