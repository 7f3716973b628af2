package main

import (
	"encoding"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"
)

// field is one setting as the struct tags of Config describe it. The loader,
// the schema, the docs and `config show` all walk these, and nothing else
// knows what settings exist.
type field struct {
	name  string // in the file
	typ   reflect.Type
	tag   reflect.StructTag
	index []int
}

// fieldsOf lists the settings of a section, in the order of its struct.
func fieldsOf(section reflect.Type) []field {
	var fields []field
	for _, f := range reflect.VisibleFields(section) {
		if f.Anonymous {
			continue // its own fields are visible too
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, field{name: name, typ: f.Type, tag: f.Tag, index: f.Index})
	}
	return fields
}

func (f field) isSection() bool { return f.typ.Kind() == reflect.Struct }
func (f field) isList() bool    { return f.typ.Kind() == reflect.Slice }

// needsRestart says that the setting, or all of the section, is read once: when the
// process starts.
func (f field) needsRestart() bool { return f.tag.Get("reload") == "restart" }

// meaning is what people are told of the setting; restart says that its section is read
// once, as a whole.
func (f field) meaning(restart bool) string {
	text := f.tag.Get("doc")
	if restart || f.needsRestart() {
		text += ". Read once, when the process starts"
	}
	return text
}

// element is the type of a list's elements, or the field's own.
func (f field) element() reflect.Type {
	if f.isList() {
		return f.typ.Elem()
	}
	return f.typ
}

// omitted says that value is not written, being the same as absent.
func (f field) omitted(value reflect.Value) bool {
	return strings.HasSuffix(f.tag.Get("json"), ",omitzero") && value.IsZero()
}

// joinPath puts a setting's name behind the path of its section.
func joinPath(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// configSettings is every setting of Config that is not within a list, by path.
var configSettings = settingsOf(reflect.TypeFor[Config](), "")

func settingsOf(section reflect.Type, path string) map[string]field {
	found := make(map[string]field)
	for _, f := range fieldsOf(section) {
		at := joinPath(path, f.name)
		if f.isSection() {
			maps.Copy(found, settingsOf(f.typ, at))
		} else {
			found[at] = f
		}
	}
	return found
}

// variable is the environment variable that sets path, or "" if none does: a
// valueText can give a single value, but no list.
func variable(path string) string {
	f, ok := configSettings[path]
	if !ok || f.isList() || f.tag.Get("env") == "-" {
		return ""
	}
	return variableName(path)
}

func variableName(path string) string {
	return "LANEKEEPER_" + strings.ToUpper(strings.ReplaceAll(path, ".", "_"))
}

// plainValue turns a value into maps, lists and texts: what a YAML file without
// types would hold. A list that is nil is left out of its section.
func plainValue(value reflect.Value) any {
	switch value.Kind() {
	case reflect.Struct:
		section := make(map[string]any)
		for _, f := range fieldsOf(value.Type()) {
			v := value.FieldByIndex(f.index)
			if f.omitted(v) || f.isList() && v.IsNil() {
				continue
			}
			section[f.name] = plainValue(v)
		}
		return section
	case reflect.Slice:
		list := make([]any, value.Len())
		for i := range list {
			list[i] = plainValue(value.Index(i))
		}
		return list
	}
	return valueText(value)
}

// valueText is a scalar value as it is written in the file.
func valueText(value reflect.Value) string {
	if m, ok := value.Interface().(encoding.TextMarshaler); ok {
		written, err := m.MarshalText()
		if err != nil {
			panic(fmt.Sprintf("config: %v does not print: %v", value, err))
		}
		return string(written)
	}
	if value.CanFloat() {
		return strconv.FormatFloat(value.Float(), 'f', -1, 64) // parseValue knows no exponents
	}
	return fmt.Sprint(value.Interface())
}
