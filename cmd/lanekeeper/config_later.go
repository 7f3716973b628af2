package main

import (
	"os"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// laterSettings are those of the format that this version does not have yet.
// Each is refused where it stands, unless it says what its absence says: off.
// A setting that gets built leaves this table for a struct of Config, and
// nothing else has to change. A * stands for defaults and for routes.
var laterSettings = []struct{ path, off string }{
	{"admin.ui", "false"},
}

const notYet = "not yet supported in this version"

// laterOff says whether path, written without indexes, is a setting of a later
// version or a section of such, and the values that it may have all the same.
func laterOff(path string) (off string, isSetting, isSection bool) {
	for _, prefix := range []string{"defaults.", "routes."} {
		if rest, ok := strings.CutPrefix(path, prefix); ok {
			path = "*." + rest
		}
	}
	for _, s := range laterSettings {
		if s.path == path {
			return s.off, true, false
		}
		isSection = isSection || strings.HasPrefix(s.path, path+".")
	}
	return "", false, isSection
}

// isLater says whether this version should say "not yet" about path, instead
// of "unknown".
func isLater(path string) bool {
	_, isSetting, isSection := laterOff(path)
	return isSetting || isSection
}

// refuseLater reports what a setting of a later version asks for, unless it
// asks for nothing.
func (d *document) refuseLater(key, node *yaml.Node, path string) {
	off, isSetting, isSection := laterOff(withoutIndexes(path))
	switch {
	case isSection && node.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			d.refuseLater(node.Content[i], node.Content[i+1], joinPath(path, node.Content[i].Value))
		}
	case isSection && node.ShortTag() == "!!null":
	case isSetting && d.isOff(node, off):
	case isSetting:
		d.errorf(key, path, "%s: leave it out or write %s", notYet, orQuotes(off))
	default:
		d.errorf(key, path, "%s", notYet)
	}
}

// isOff says whether node has the value that means off. Zero needs no unit.
func (d *document) isOff(node *yaml.Node, off string) bool {
	if node.Kind != yaml.ScalarNode {
		return false
	}
	value, err := expandText(node.Value)
	return err == nil && isOffText(value, off)
}

func isOffText(value, off string) bool {
	return value == off || off == "0s" && value == "0" || off == "0" && (value == "0s" || value == "0B")
}

func orQuotes(text string) string {
	if text == "" {
		return `""`
	}
	return text
}

// refuseLaterVariable does the same for an environment variable; it reports
// whether name belongs to a later version.
func refuseLaterVariable(report *Report, name string) bool {
	for _, s := range laterSettings {
		path := strings.Replace(s.path, "*", "defaults", 1)
		section, _, _ := strings.Cut(path, ".")
		if section == "upstreams" {
			continue // a list has no variables
		}
		_, built := reflect.TypeFor[Config]().FieldByNameFunc(func(field string) bool { return strings.EqualFold(field, section) })
		switch {
		case name == variableName(path) && isOffText(os.Getenv(name), s.off):
			return true
		case name == variableName(path), !built && strings.HasPrefix(name, variableName(section)+"_"):
			report.add(Place{Source: name}, SeverityError, "", "%s: unset it", notYet)
			return true
		}
	}
	return false
}
