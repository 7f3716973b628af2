//go:build ignore

// Generate makes the files of vendor again: go generate ./admin/ui, or go run generate.go DIR
// for another directory. Packages are fetched with npm by name and version, into a directory
// that is removed; a package that vendor/LOCK knows in this version must be the same to the byte.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// packages are what the page is made with. Update one here.
var packages = []string{
	"preact@11.2.0", "@preact/signals@2.11.4", "@preact/signals-core@1.14.5", "htm@3.1.1", "uplot@1.6.32",
}

// preactEntry is what the page uses of them: one file, so that there is one Preact.
const preactEntry = `import htm from "htm";
import { h } from "preact";
export { render } from "preact";
export { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
export { batch, signal } from "@preact/signals";
export const html = htm.bind(h);
`

func main() {
	log.SetFlags(0)
	out := "vendor"
	if len(os.Args) > 1 {
		out = os.Args[1]
	}
	if err := generate(out); err != nil {
		log.Fatal(err)
	}
}

func generate(out string) error {
	known, err := knownPackages("vendor/LOCK")
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "lanekeeper-ui-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	var lock bytes.Buffer
	lock.WriteString("# Made by go generate ./admin/ui. Packages, as npm has them: name, version, licence, sha256.\n")
	install := []string{"install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"}
	for _, p := range packages {
		line, archive, err := fetch(work, p)
		if err != nil {
			return err
		}
		if before, ok := known[p]; ok && before != line {
			return fmt.Errorf("%s is another one than before:\n%s\n%s", p, before, line)
		}
		lock.WriteString(line + "\n")
		install = append(install, "./"+archive)
	}
	if err := run(work, "npm", install...); err != nil {
		return err
	}
	if err := bundle(work, out); err != nil {
		return err
	}
	lock.WriteString("# Files beside this one: name, sha256.\n")
	files, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	for _, f := range files {
		if f.Name() == "LOCK" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(out, f.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&lock, "%s %x\n", f.Name(), sha256.Sum256(text))
	}
	return os.WriteFile(filepath.Join(out, "LOCK"), lock.Bytes(), 0o644)
}

// knownPackages are the lines of an earlier LOCK.
func knownPackages(name string) (map[string]string, error) {
	text, err := os.ReadFile(name)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	known := make(map[string]string)
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) == 4 && f[0] != "#" {
			known[f[0]+"@"+f[1]] = lines.Text()
		}
	}
	return known, nil
}

// fetch brings a package's archive, and returns its line of LOCK.
func fetch(work, name string) (line, archive string, err error) {
	var packed []struct{ Name, Version, Filename string }
	command := exec.Command("npm", "pack", "--json", "--silent", name)
	command.Dir, command.Stderr = work, os.Stderr
	said, err := command.Output()
	if err != nil {
		return "", "", fmt.Errorf("npm pack %s: %w", name, err)
	}
	if err := json.Unmarshal(said, &packed); err != nil || len(packed) != 1 {
		return "", "", fmt.Errorf("npm pack %s says %s", name, said)
	}
	p := packed[0]
	text, err := os.ReadFile(filepath.Join(work, p.Filename))
	if err != nil {
		return "", "", err
	}
	var manifest struct{ License string }
	inside, err := exec.Command("tar", "-xzOf", filepath.Join(work, p.Filename), "package/package.json").Output()
	if err != nil {
		return "", "", err
	}
	if err := json.Unmarshal(inside, &manifest); err != nil {
		return "", "", err
	}
	return fmt.Sprintf("%s %s %s %x", p.Name, p.Version, manifest.License, sha256.Sum256(text)), p.Filename, nil
}

// bundle writes the files that are served, and beside them the licences of what is in them.
func bundle(work, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	entry := filepath.Join(work, "preact.js")
	if err := os.WriteFile(entry, []byte(preactEntry), 0o600); err != nil {
		return err
	}
	// The tool is the one of this module's go.mod, so it runs here and not in work.
	if err := run("", "go", "tool", "esbuild", entry, "--bundle", "--minify", "--format=esm",
		"--target=es2022", "--legal-comments=none", "--log-level=warning", "--outfile="+filepath.Join(out, "preact.js")); err != nil {
		return err
	}
	modules := filepath.Join(work, "node_modules")
	copies := make(map[string]string)
	for _, p := range packages {
		name := p[:strings.LastIndex(p, "@")]
		copies["LICENSE."+strings.ReplaceAll(strings.TrimPrefix(name, "@"), "/", "-")] = name + "/LICENSE"
	}
	for to, from := range copies {
		text, err := os.ReadFile(filepath.Join(modules, from))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, to), text, 0o644); err != nil {
			return err
		}
	}
	sheet, err := os.ReadFile(filepath.Join(modules, "uplot/dist/uPlot.min.css"))
	if err != nil {
		return err
	}
	// The page has a legend of its own.
	sheet = regexp.MustCompile(`[^{}]*\.(?:u-legend|u-inline|u-hz)[^{}]*\{[^{}]*\}`).ReplaceAll(sheet, nil)
	if err := os.WriteFile(filepath.Join(out, "uplot.css"), sheet, 0o644); err != nil {
		return err
	}
	// Its authors' own minified file is smaller than what esbuild makes of their module.
	text, err := os.ReadFile(filepath.Join(modules, "uplot/dist/uPlot.iife.min.js"))
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "uplot.js"), append(bytes.TrimSpace(text), "\nexport default uPlot;\n"...), 0o644)
}

func run(dir, name string, args ...string) error {
	command := exec.Command(name, args...)
	command.Dir, command.Stdout, command.Stderr = dir, os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return nil
}
