package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// listMax bounds the elements of a list. Every route takes over the lists of
// defaults:, so without it a small file could become a large configuration.
const listMax = 1024

// document reads one YAML file strictly: every setting is known, given once
// and of its type, or it is reported where it stands. What is sound comes out
// as maps, lists and texts, which is all that viper sees: it would fold the
// case of keys, split those with dots, take 5 for five nanoseconds and let the
// last of two equal keys win, all in silence.
type document struct {
	name   string
	report *Report
}

// read returns the settings of the source's YAML.
func (d *document) read(source []byte) map[string]any {
	decoder := yaml.NewDecoder(bytes.NewReader(source))
	var first, second yaml.Node
	if err := decoder.Decode(&first); errors.Is(err, io.EOF) {
		return nil // nothing but comments
	} else if err != nil {
		d.syntaxError(err)
		return nil
	}
	if err := decoder.Decode(&second); err == nil {
		d.errorf(&second, "", "a second document starts here: one file is one configuration")
		return nil
	} else if !errors.Is(err, io.EOF) {
		d.syntaxError(err)
		return nil
	}
	return d.section(first.Content[0], reflect.TypeFor[Config](), "")
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?`)

// syntaxError reports what the YAML parser stumbled over. It knows no columns.
func (d *document) syntaxError(err error) {
	place := Place{Source: d.name}
	found := yamlLine.FindStringSubmatch(err.Error())
	if found != nil && found[1] != "" {
		place.Line, _ = strconv.Atoi(found[1])
		place.Column = 1
	}
	d.report.add(place, SeverityError, "", "not YAML: %s", yamlLine.ReplaceAllString(err.Error(), ""))
}

func (d *document) errorf(at *yaml.Node, path, format string, args ...any) {
	d.report.add(d.place(at), SeverityError, path, format, args...)
}

func (d *document) place(at *yaml.Node) Place {
	return Place{Source: d.name, Line: at.Line, Column: at.Column}
}

// section reads a mapping into the settings that type t knows.
func (d *document) section(node *yaml.Node, t reflect.Type, path string) map[string]any {
	if node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null" {
		return nil // every line of it is commented out
	}
	if node.Kind != yaml.MappingNode {
		d.errorf(node, path, "want a section with settings, got %s", describeNode(node))
		return nil
	}
	fields := fieldsOf(t)
	tree := make(map[string]any)
	lines := make(map[string]int)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.errorf(key, path, "want the name of a setting, got %s", describeNode(key))
			continue
		}
		at := joinPath(path, key.Value)
		if line, twice := lines[key.Value]; twice {
			d.errorf(key, at, "given twice, first in line %d", line)
			continue
		}
		lines[key.Value] = key.Line
		f, known := findField(fields, key.Value)
		switch {
		case key.Value == "<<":
			d.errorf(key, at, noAliases)
		case known:
			d.report.places[at] = d.place(key)
			if read, ok := d.value(key, value, f, at); ok {
				tree[f.name] = read
			}
		default:
			d.errorf(key, at, "unknown field%s", didYouMean(key.Value, fieldNames(fields)))
		}
	}
	return tree
}

// value reads the value of a setting; ok is false if it had to be reported.
func (d *document) value(at, node *yaml.Node, f field, path string) (read any, ok bool) {
	switch {
	case node.Kind == yaml.AliasNode:
		d.errorf(node, path, noAliases)
		return nil, false
	case f.isSection():
		return d.section(node, f.typ, path), true
	case !f.isList():
		return d.scalar(at, node, f, path)
	case node.Kind != yaml.SequenceNode:
		d.errorf(at, path, "want a list, got %s", describeNode(node))
		return nil, false
	case len(node.Content) > listMax:
		d.errorf(at, path, "%d elements: at most %d", len(node.Content), listMax)
		return nil, false
	}
	list := make([]any, 0, len(node.Content))
	ok = true
	for i, item := range node.Content {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.report.places[at] = d.place(item)
		if item.Kind == yaml.AliasNode {
			d.errorf(item, at, noAliases)
			ok = false
		} else if f.element().Kind() == reflect.Struct {
			list = append(list, d.section(item, f.element(), at))
		} else if read, fine := d.scalar(item, item, f, at); fine {
			list = append(list, read)
		} else {
			ok = false // a list with holes would shift the places of the rest
		}
	}
	return list, ok
}

const noAliases = "YAML aliases and merge keys are not supported: what routes share belongs under defaults:"

// scalar reads a single value and returns its text. A value with ${…} takes
// the type of its setting, like a value from the environment.
func (d *document) scalar(at, node *yaml.Node, f field, path string) (read string, ok bool) {
	if node.Kind != yaml.ScalarNode {
		d.errorf(at, path, "want a single value, got %s", describeNode(node))
		return "", false
	}
	text, err := expandText(node.Value)
	if err != nil {
		d.errorf(at, path, "%v", err)
		return "", false
	}
	if text == node.Value {
		err = checkTag(node, f)
	}
	if err == nil {
		err = f.check(text)
	}
	if err != nil {
		d.errorf(at, path, "%v", err)
		return "", false
	}
	return text, true
}

// checkTag refuses a value whose type in YAML is another than the setting's:
// "5" for 5, or 5 for "5". What a person meant by it may be something else.
func checkTag(node *yaml.Node, f field) error {
	tag := node.ShortTag()
	t := f.element()
	switch {
	case tag == "!!null":
		return errors.New("has no value: give one, or remove the line")
	case t == durationType || t == sizeType:
		return nil // texts and bare numbers; UnmarshalText has the better sentence
	case t.Kind() == reflect.Int && tag != "!!int":
		return fmt.Errorf("want a whole number, got %s", describeNode(node))
	case t.Kind() == reflect.Float64 && tag != "!!float" && tag != "!!int":
		return fmt.Errorf("want a number, got %s", describeNode(node))
	case t.Kind() == reflect.Bool && tag != "!!bool":
		return fmt.Errorf("want true or false, got %s", describeNode(node))
	case t.Kind() == reflect.String && tag != "!!str":
		return fmt.Errorf("want text, got %s: put it in quotes", describeNode(node))
	}
	return nil
}

// describeNode says what a node is, for the end of "want …, got …".
func describeNode(node *yaml.Node) string {
	switch {
	case node.Kind == yaml.MappingNode:
		return "a section"
	case node.Kind == yaml.SequenceNode:
		return "a list"
	case node.Kind == yaml.AliasNode:
		return "an alias"
	case node.ShortTag() == "!!null":
		return "nothing"
	case node.ShortTag() == "!!str":
		return fmt.Sprintf("the text %q", node.Value)
	}
	return node.Value
}

func findField(fields []field, name string) (field, bool) {
	for _, f := range fields {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

func fieldNames(fields []field) []string {
	list := make([]string, len(fields))
	for i, f := range fields {
		list[i] = f.name
	}
	return list
}
