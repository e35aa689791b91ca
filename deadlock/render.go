package deadlock

import (
	"fmt"
	"strconv"
	"strings"
)

// DOT returns the cycle as a directed graph of Graphviz, see
// https://graphviz.org/doc/info/lang.html. Soft edges are dashed.
func (c Cycle) DOT() string {
	var out strings.Builder
	out.WriteString("digraph deadlock {\n")
	for _, e := range c {
		style := ""
		if e.Soft {
			style = ", style=dashed"
		}
		fmt.Fprintf(&out, "  %s -> %s [label=%s%s]\n", quoteDOT(e.Owner), quoteDOT(e.For), quoteDOT(e.Resource), style)
	}
	out.WriteString("}\n")
	return out.String()
}

// quoteDOT is the language's quoting, in which only the quote has to be escaped;
// a backslash starts other escapes where it isn't.
func quoteDOT(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", " ").Replace(text) + `"`
}

// Mermaid returns the cycle as a flowchart of Mermaid, see
// https://mermaid.js.org/syntax/flowchart.html. Soft edges are dotted.
func (c Cycle) Mermaid() string {
	var out strings.Builder
	out.WriteString("flowchart LR\n")
	for i, e := range c {
		fmt.Fprintf(&out, "  o%d[%s]\n", i, quoteMermaid(e.Owner))
	}
	for i, e := range c {
		arrow := "-->"
		if e.Soft {
			arrow = "-.->"
		}
		fmt.Fprintf(&out, "  o%d %s|%s| o%d\n", i, arrow, quoteMermaid(e.Resource), (i+1)%len(c))
	}
	return out.String()
}

// quoteMermaid writes what has a meaning in Mermaid or HTML as entity codes.
func quoteMermaid(text string) string {
	var out strings.Builder
	for _, r := range text {
		if strings.ContainsRune("\"#;<>&|`\\\n\r", r) {
			out.WriteString("#" + strconv.Itoa(int(r)) + ";")
		} else {
			out.WriteRune(r)
		}
	}
	return `"` + out.String() + `"`
}
