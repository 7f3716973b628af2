package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// expandedFileMax bounds what ${file:…} reads; it is meant for names and
// tokens.
const expandedFileMax = 64 << 10

var variableNames = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expandText replaces what a text says of its surroundings:
//
//	${VAR}        the environment variable; an error if it is not set
//	${VAR:-text}  the same, or text if it is not set or empty
//	${file:/path} the file without the line break at its end
//	$$            a dollar sign
//
// Any other dollar sign is itself, as in the path template /{$}. What was put
// in is not expanded again, so a secret may contain anything.
func expandText(text string) (string, error) {
	var out strings.Builder
	for {
		before, rest, found := strings.Cut(text, "$")
		out.WriteString(before)
		switch {
		case !found:
			return out.String(), nil
		case strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			text = rest[1:]
		case strings.HasPrefix(rest, "{"):
			name, after, closed := strings.Cut(rest[1:], "}")
			if !closed {
				return "", fmt.Errorf("${%s has no closing }; write $$ for a dollar sign", name)
			}
			value, err := lookupReference(name)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			text = after
		default:
			out.WriteByte('$')
			text = rest
		}
	}
}

// lookupReference finds the value of what stands between ${ and }.
func lookupReference(reference string) (string, error) {
	if path, isFile := strings.CutPrefix(reference, "file:"); isFile {
		return readExpanded(path)
	}
	name, fallback, hasFallback := strings.Cut(reference, ":-")
	if !variableNames.MatchString(name) {
		return "", fmt.Errorf("${%s} is not understood: write ${VAR}, ${VAR:-default} or ${file:/path}, and $$ for a dollar sign", reference)
	}
	value, set := os.LookupEnv(name)
	switch {
	case hasFallback && value == "":
		return fallback, nil
	case !set:
		return "", fmt.Errorf("the environment variable %s is not set: set it, or write ${%s:-default}", name, name)
	}
	return value, nil
}

// readExpanded reads only regular files: a pipe would wait and a device might
// never end.
func readExpanded(path string) (string, error) {
	if info, err := os.Stat(path); err != nil {
		return "", err
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, expandedFileMax+1))
	if err != nil {
		return "", err
	}
	if len(content) > expandedFileMax {
		return "", fmt.Errorf("%s is larger than %s", path, Size(expandedFileMax))
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(content), "\n"), "\r"), nil
}

// unexpandText writes text so that expandText gives it back.
func unexpandText(text string) string {
	var out strings.Builder
	for i := range len(text) {
		out.WriteByte(text[i])
		if text[i] == '$' && i+1 < len(text) && (text[i+1] == '$' || text[i+1] == '{') {
			out.WriteByte('$')
		}
	}
	return out.String()
}
