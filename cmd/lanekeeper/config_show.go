package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// writeYAML writes the configuration as a file that Load reads back to the
// same. origin, if not nil, says what to write behind each value.
func (c *Config) writeYAML(w io.Writer, origin func(path string) string) error {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(yamlNode(reflect.ValueOf(*c), "", origin)); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}

func yamlNode(value reflect.Value, path string, origin func(path string) string) *yaml.Node {
	switch value.Kind() {
	case reflect.Struct:
		section := &yaml.Node{Kind: yaml.MappingNode}
		for _, f := range fieldsOf(value.Type()) {
			v := value.FieldByIndex(f.index)
			if f.omitted(v) {
				continue
			}
			at := joinPath(path, f.name)
			node := yamlNode(v, at, origin)
			if origin != nil && !f.isSection() && f.element().Kind() != reflect.Struct {
				node.LineComment = origin(at)
			}
			section.Content = append(section.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.name}, node)
		}
		return section
	case reflect.Slice:
		list := &yaml.Node{Kind: yaml.SequenceNode}
		if value.Len() == 0 || value.Type().Elem().Kind() != reflect.Struct {
			list.Style = yaml.FlowStyle
		}
		for i := range value.Len() {
			list.Content = append(list.Content, yamlNode(value.Index(i), fmt.Sprintf("%s[%d]", path, i), origin))
		}
		return list
	case reflect.String:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: unexpandText(value.String())}
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Value: valueText(value)}
}

// hash is short for everything that is configured but where this node is and
// where it finds the others: nodes that should behave alike have the same one.
func (c *Config) hash() string {
	anonymous := *c
	anonymous.Node, anonymous.Observe, anonymous.Admin = NodeConfig{}, ObserveConfig{}, AdminConfig{}
	anonymous.Server.Listen = ""
	anonymous.Cluster.Gossip.Listen, anonymous.Cluster.Gossip.Advertise = "", ""
	anonymous.Cluster.Peer.Listen, anonymous.Cluster.Peer.Advertise = "", ""
	anonymous.Cluster.Join = nil
	anonymous.Journal.File = ""
	written, err := json.Marshal(anonymous)
	if err != nil {
		panic("config: " + err.Error())
	}
	sum := sha256.Sum256(written)
	return hex.EncodeToString(sum[:6])
}

// A leaf is one value with its path; a list of single values is one.
type leaf struct {
	Path   string `json:"path"`
	Value  string `json:"value"`
	Origin string `json:"origin,omitzero"`
}

// leaves lists every value of the configuration, in the order of the file.
// With byName, elements that have a name are called by it instead of their
// index, and their list counts as a value, the list of their names.
func (c *Config) leaves(byName bool) []leaf {
	var found []leaf
	var walk func(value reflect.Value, path string)
	walk = func(value reflect.Value, path string) {
		switch {
		case value.Kind() == reflect.Struct:
			for _, f := range fieldsOf(value.Type()) {
				if v := value.FieldByIndex(f.index); !f.omitted(v) {
					walk(v, joinPath(path, f.name))
				}
			}
		case value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Struct:
			var names []string
			for i := range value.Len() {
				index := fmt.Sprint(i)
				if name := value.Index(i).FieldByName("Name"); byName && name.IsValid() {
					index = name.String()
					names = append(names, index)
				}
				walk(value.Index(i), fmt.Sprintf("%s[%s]", path, index))
			}
			if names != nil {
				found = append(found, leaf{Path: path, Value: "[" + strings.Join(names, ", ") + "]"})
			}
		case value.Kind() == reflect.Slice:
			items := make([]string, value.Len())
			for i := range items {
				items[i] = valueText(value.Index(i))
			}
			found = append(found, leaf{Path: path, Value: "[" + strings.Join(items, ", ") + "]"})
		default:
			found = append(found, leaf{Path: path, Value: valueText(value)})
		}
	}
	walk(reflect.ValueOf(*c), "")
	return found
}

// differences lists what a and b do differently, one line each. Of a route or an upstream that
// only one of them has it leaves out what the defaults say: that is what nobody wrote.
func differences(a, b *Config) []string {
	before, after := a.leaves(true), b.leaves(true)
	gone, added := own(before, a, b), own(after, b, a)
	values := make(map[string]string)
	for _, l := range after {
		values[l.Path] = l.Value
	}
	var lines []string
	for _, l := range before {
		switch value, stays := values[l.Path]; {
		case !stays && gone(l):
			lines = append(lines, fmt.Sprintf("- %s: %s", l.Path, l.Value))
		case stays && value != l.Value:
			lines = append(lines, fmt.Sprintf("~ %s: %s -> %s", l.Path, l.Value, value))
		}
		delete(values, l.Path)
	}
	for _, l := range after {
		if _, isNew := values[l.Path]; isNew && added(l) {
			lines = append(lines, fmt.Sprintf("+ %s: %s", l.Path, l.Value))
		}
	}
	return lines
}

// own returns what of a configuration's leaves is its own, if another one lacks them: all but
// what a route, or an upstream, that the other has not at all inherits.
func own(leaves []leaf, of, other *Config) func(leaf) bool {
	inherited := make(map[string]string)
	for _, l := range leaves {
		if setting, ok := strings.CutPrefix(l.Path, "defaults."); ok {
			inherited["routes."+setting] = l.Value
		}
	}
	base := Config{Upstreams: []UpstreamConfig{defaultUpstream()}}
	for _, l := range base.leaves(false) {
		if setting, ok := strings.CutPrefix(l.Path, "upstreams[0]."); ok {
			inherited["upstreams."+setting] = l.Value
		}
	}
	whole := make(map[string]bool)
	for _, r := range of.Routes {
		whole["routes["+r.Name] = !slices.ContainsFunc(other.Routes, func(o RouteConfig) bool { return o.Name == r.Name })
	}
	for _, u := range of.Upstreams {
		whole["upstreams["+u.Name] = !slices.ContainsFunc(other.Upstreams, func(o UpstreamConfig) bool { return o.Name == u.Name })
	}
	return func(l leaf) bool {
		element, setting, _ := strings.Cut(l.Path, "].")
		list, _, _ := strings.Cut(element, "[")
		value, is := inherited[list+"."+setting]
		return !whole[element] || !is || value != l.Value
	}
}
