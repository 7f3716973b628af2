package admin

import (
	_ "embed"
	"net/http"
	"net/url"
)

// openAPI describes all routes, for machines (OpenAPI 3.1). It is made of routes and of the types
// of their answers, with the comments that these have here; a test holds it against both, and
// against real answers.
//
//go:generate go test -run ^TestOpenAPIIsWhatThereIs$ -update .
//go:embed openapi.json
var openAPI []byte

func (a *api) describe(*http.Request, url.Values) (int, any, *problem) {
	return http.StatusOK, &Told{Status: http.StatusOK, Type: "application/json", Body: openAPI}, nil
}
