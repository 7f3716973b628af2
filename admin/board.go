package admin

import (
	"net/http"
	"net/url"
)

func (a *api) watchStatus(w http.ResponseWriter, r *http.Request, query url.Values) *problem {
	if query.Has("node") {
		return badRequest("a stream is of the whole cluster")
	}
	return badRequest("not yet")
}
