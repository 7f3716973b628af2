package main

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lanekeeper/admin"
)

// A shell that completes a word asks the node, if it answers at once: members, spaces and
// keys are what they are at that moment. Whatever fails completes nothing.

// completeMax is how long somebody at a shell waits.
const completeMax = 700 * time.Millisecond

// completions asks for words.
func (o *adminOptions) completions(ask func(ctx context.Context, c *adminClient) []string, directive cobra.ShellCompDirective) ([]string, cobra.ShellCompDirective) {
	client, err := o.client()
	if err != nil {
		return nil, directive
	}
	ctx, cancel := context.WithTimeout(context.Background(), completeMax)
	defer cancel()
	var words []string
	for _, word := range ask(ctx, client) {
		if word != "" && printable(word) == word { // a shell is no place for more
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return slices.Compact(words), directive
}

// completeMembers completes the name of a live member.
func (o *adminOptions) completeMembers(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return o.completions(func(ctx context.Context, c *adminClient) (names []string) {
		c.node = ""
		var members admin.Members
		if _, err := c.ask(ctx, http.MethodGet, "members", nil, &members); err != nil {
			return nil
		}
		for i := range members.Members {
			if m := &members.Members[i]; m.Live() {
				names = append(names, m.Name)
			}
		}
		return names
	}, cobra.ShellCompDirectiveNoFileComp)
}

// completeKeys completes SPACE/KEY: the spaces that are configured, and the keys with most to do.
func (o *adminOptions) completeKeys(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return o.completions(func(ctx context.Context, c *adminClient) (words []string) {
		if !strings.Contains(begun, "/") {
			for _, space := range c.settings(ctx, ".key.space") {
				words = append(words, space+"/")
			}
		}
		var lanes admin.Lanes
		if _, err := c.ask(ctx, http.MethodGet, "lanes", nil, &lanes); err == nil {
			for i := range lanes.Lanes {
				words = append(words, lanes.Lanes[i].Space+"/"+lanes.Lanes[i].Key)
			}
		}
		return words
	}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)
}

// completeRoutes completes the name of a route.
func (o *adminOptions) completeRoutes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return o.completions(func(ctx context.Context, c *adminClient) []string { return c.settings(ctx, ".name") }, cobra.ShellCompDirectiveNoFileComp)
}

// settings are the values of routes' settings whose path ends so.
func (c *adminClient) settings(ctx context.Context, end string) (values []string) {
	var config admin.Configuration
	if _, err := c.ask(ctx, http.MethodGet, "config", nil, &config); err != nil {
		return nil
	}
	for _, s := range config.Settings {
		if strings.HasPrefix(s.Path, "routes[") && strings.HasSuffix(s.Path, "]"+end) {
			values = append(values, s.Value)
		}
	}
	return values
}
