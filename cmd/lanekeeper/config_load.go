package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/viper"
)

// configFileMax bounds a configuration file.
const configFileMax = 1 << 20

// LoadOptions says where a configuration comes from. At most one of File and
// Quick is set.
type LoadOptions struct {
	File  string            // a YAML file
	Quick *Quick            // no file: one keyed route over everything
	Flags map[string]string // by path, such as server.listen; they win over everything

	// Partial accepts a configuration without routes and upstreams, to look at
	// what the environment and the defaults say. Nothing can be served with it.
	Partial bool
}

// Load puts a configuration together: a flag wins over an environment variable,
// that over the file, that over the default. It opens no port and changes
// nothing. The Config may be used if the Report has no errors; otherwise it is
// as much as could be read. It reads the process's environment.
func Load(opts LoadOptions) (*Config, *Report) {
	report := newReport(cmp.Or(opts.File, "command line"))
	defer report.sort()

	if opts.File != "" && opts.Quick != nil {
		report.add(Place{Source: "command line"}, SeverityError, "", "a file and --upstream with --key exclude each other: give one of them")
		return &Config{}, report
	}
	file := readSource(opts, report)
	if file == nil && report.Errors() > 0 {
		return &Config{}, report // nothing could be read, so nothing is missing
	}
	if version, ok := file["version"]; ok && version != "1" {
		report.Problems = nil // in another format other names are right
		report.add(report.locate("version"), SeverityError, "version", "%v is unknown: this build reads version 1", version)
		return &Config{}, report
	}

	v := viper.New()
	v.AllowEmptyEnv(true) // set to nothing is a value: it is refused or obeyed, never skipped
	for name, section := range plainValue(reflect.ValueOf(Default())).(map[string]any) {
		v.SetDefault(name, section)
	}
	if err := v.MergeConfigMap(file); err != nil {
		report.add(report.places[""], SeverityError, "", "%v", err)
	}
	bindEnvironment(v, report)
	for path, value := range opts.Flags {
		f, known := configSettings[path]
		if !known {
			panic("config: a flag for the unknown setting " + path)
		}
		if err := f.check(value); err != nil {
			report.add(Place{Source: "command line"}, SeverityError, path, "%v", err)
			continue
		}
		v.Set(path, value)
		report.places[path] = Place{Source: "command line"}
	}

	settings := v.AllSettings()
	inheritDefaults(settings)
	cfg := &Config{}
	if err := decodeConfig(settings, cfg); err != nil {
		report.add(report.places[""], SeverityError, "", "%v", err)
		return cfg, report
	}
	(&checker{cfg: cfg, report: report, partial: opts.Partial}).check()
	if opts.Quick != nil { // its routes have one key, and one problem with it
		report.Problems = slices.CompactFunc(report.Problems, func(a, b Problem) bool { return a.Place == b.Place && a.Message == b.Message })
	}
	return cfg, report
}

// readSource returns what the file says, or its replacement.
func readSource(opts LoadOptions, report *Report) map[string]any {
	if opts.Quick != nil {
		return opts.Quick.read(report)
	}
	if opts.File == "" {
		return nil
	}
	source, err := readBounded(opts.File)
	if err != nil {
		report.add(report.places[""], SeverityError, "", "%v", err)
		return nil
	}
	return (&document{opts.File, report}).read(source)
}

func readBounded(name string) ([]byte, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	source, err := io.ReadAll(io.LimitReader(file, configFileMax+1))
	if err != nil {
		return nil, err
	}
	if len(source) > configFileMax {
		return nil, fmt.Errorf("larger than %s", Size(configFileMax))
	}
	return source, nil
}

// bindEnvironment lets LANEKEEPER_<PATH> override the setting at path, and
// reports variables that do nothing.
func bindEnvironment(v *viper.Viper, report *Report) {
	paths := make(map[string]string)
	for path := range configSettings {
		paths[variableName(path)] = path
	}
	for _, entry := range os.Environ() {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, "LANEKEEPER_") || serviceLink.MatchString(name) {
			continue
		}
		path, known := paths[name]
		switch {
		case !known:
			report.add(Place{Source: name}, SeverityWarning, "", "sets nothing%s", suggestVariable(name))
		case configSettings[path].isList():
			report.add(Place{Source: name}, SeverityWarning, "", "sets nothing: %s is a list; write it in the file, where an element may be ${VAR}", path)
		case variable(path) == "":
			report.add(Place{Source: name}, SeverityWarning, "", "sets nothing: %s is set by the file alone", path)
		default:
			if err := configSettings[path].check(value); err != nil {
				report.add(Place{Source: name}, SeverityError, path, "%v", err)
				continue
			}
			if err := v.BindEnv(path, name); err != nil {
				panic(fmt.Sprintf("config: bind %s: %v", path, err))
			}
			report.places[path] = Place{Source: name}
		}
	}
}

// suggestVariable names the variable that was probably meant.
func suggestVariable(name string) string {
	const prefix = "LANEKEEPER_" // left out, or it would make everything look near
	var known []string
	for path := range configSettings {
		if v := variable(path); v != "" {
			known = append(known, strings.TrimPrefix(v, prefix))
		}
	}
	slices.Sort(known)
	if best := nearest(strings.TrimPrefix(name, prefix), known); best != "" {
		return fmt.Sprintf(" (did you mean %q?)", prefix+best)
	}
	return ""
}

// serviceLink matches what Kubernetes puts into every container beside a
// Service that is called lanekeeper.
var serviceLink = regexp.MustCompile(`^LANEKEEPER_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// inheritDefaults puts the defaults under what each upstream and each route gives
// itself. A list replaces the default's list.
func inheritDefaults(settings map[string]any) {
	for _, u := range sectionsOf(settings["upstreams"]) {
		fillSection(u, plainValue(reflect.ValueOf(defaultUpstream())))
	}
	defaults := settings["defaults"].(map[string]any)
	fillRules(defaults)
	for _, r := range sectionsOf(settings["routes"]) {
		for _, name := range []string{"lane", "idempotency", "sequence"} {
			section, _ := r[name].(map[string]any)
			if section == nil {
				section = make(map[string]any)
				r[name] = section
			}
			fillSection(section, defaults[name])
		}
		if key, _ := r["key"].(map[string]any); len(key) > 0 { // without a key nothing is missing
			fillSection(key, defaults["key"])
		}
		if _, given := r["coalesce"]; !given {
			r["coalesce"] = defaults["coalesce"]
		}
		fillRules(r)
	}
}

// fillRules completes each rule of a section's coalesce.
func fillRules(section map[string]any) {
	for _, rule := range sectionsOf(section["coalesce"]) {
		fillSection(rule, plainValue(reflect.ValueOf(defaultCoalesce())))
	}
}

// sectionsOf lists the sections of a list, leaving out those that are empty.
func sectionsOf(list any) []map[string]any {
	var sections []map[string]any
	items, _ := list.([]any)
	for i, item := range items {
		section, _ := item.(map[string]any)
		if section == nil {
			section = make(map[string]any)
			items[i] = section
		}
		sections = append(sections, section)
	}
	return sections
}

// fillSection adds to section, and to the sections in it, what they lack of base.
func fillSection(section map[string]any, base any) {
	for name, value := range base.(map[string]any) {
		given, isSection := section[name].(map[string]any)
		if _, has := section[name]; !has || isSection && given == nil { // or every line of it is commented out
			section[name] = value
		} else if isSection {
			fillSection(given, value)
		}
	}
}

// decodeConfig turns checked texts into the fields of cfg. An error is our own bug:
// everything that can be wrong with a text has been reported by then.
func decodeConfig(settings map[string]any, cfg *Config) error {
	decoder, err := mapstructure.NewDecoder(&mapstructure.DecoderConfig{
		Result:      cfg,
		TagName:     "json",
		Squash:      true,
		ErrorUnused: true,
		DecodeHook: func(_, to reflect.Type, data any) (any, error) {
			if text, ok := data.(string); ok && to.Kind() != reflect.String {
				return parseValue(to, text)
			}
			return data, nil
		},
	})
	if err != nil {
		return err
	}
	return decoder.Decode(settings)
}
