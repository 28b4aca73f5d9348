// Templates as people's scripts carry them. Expected texts are what Docker prints for the same data.
#include "core/cli/template.h"

#include <boost/json.hpp>
#include <gtest/gtest.h>

namespace gantry::cli {
namespace {

const boost::json::value &data() {
    static const boost::json::value kData = boost::json::parse(R"({
        "Id": "abc", "State": {"Status": "running", "Pid": 42, "Paused": false},
        "Config": {"Env": ["A=1", "B=2"], "Labels": {"a.b": "c", "x": "<&>"}, "Cmd": null},
        "NetworkSettings": {"Networks": {"net2": {"IPAddress": "10.0.0.2"}, "bridge": {"IPAddress": "172.17.0.2"}}},
        "Mounts": [{"Source": "/a", "Destination": "/b"}], "Empty": [], "Ratio": 0.25})");
    return kData;
}

std::string run(const std::string &text) { return Template(text).execute(data()); }

struct Case {
    const char *text, *expected;
};
class Renders : public testing::TestWithParam<Case> {};
TEST_P(Renders, AsDocker) { EXPECT_EQ(run(GetParam().text), GetParam().expected); }

INSTANTIATE_TEST_SUITE_P(
    Templates, Renders,
    testing::Values(
        Case{"plain", "plain"}, Case{"{{.Id}}", "abc"},
        Case{"{{ .State.Status }}-{{.State.Pid}}", "running-42"},
        Case{"{{json .Config.Env}}", R"(["A=1","B=2"])"}, Case{"{{json .Config.Labels.x}}", R"("<&>")"},
        Case{"{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}", "172.17.0.2 10.0.0.2 "},
        Case{"{{range $k, $v := .NetworkSettings.Networks}}{{$k}}={{$v.IPAddress}};{{end}}",
             "bridge=172.17.0.2;net2=10.0.0.2;"},
        Case{"{{range $i, $e := .Config.Env}}{{$i}}{{$e}}{{end}}", "0A=11B=2"},
        Case{"{{range .Empty}}x{{else}}none{{end}}", "none"},
        Case{"{{if .State.Paused}}p{{else if eq .State.Status \"running\"}}r{{else}}s{{end}}", "r"},
        Case{"{{if .State.Health}}h{{end}}", ""}, Case{"{{with .State}}{{.Status}}{{end}}", "running"},
        Case{"{{index .Config.Labels \"a.b\"}}", "c"}, Case{"{{index .Config.Labels \"none\"}}", ""},
        Case{"{{(index .Mounts 0).Source}}", "/a"}, Case{"{{len .Mounts}}", "1"},
        Case{"{{join .Config.Env \",\"}}", "A=1,B=2"}, Case{"{{.Id | upper}}", "ABC"},
        Case{"{{.Id | upper | lower}}", "abc"}, Case{"{{index (split \"a:b\" \":\") 1}}", "b"},
        Case{"{{printf \"%-5s|%3d|%q\" .Id 7 \"x\"}}", "abc  |  7|\"x\""},
        Case{"{{println .Id 1}}", "abc 1\n"}, Case{"a {{- .Id -}} b", "aabcb"},
        Case{"x{{/* note */}}y", "xy"}, Case{"{{.Config.Env}}", "[A=1 B=2]"},
        Case{"{{.Config.Labels}}", "map[a.b:c x:<&>]"}, Case{"{{.Ratio}}", "0.25"},
        Case{"{{$s := .State}}{{$s.Pid}}", "42"}, Case{"{{range .Mounts}}{{$.Id}}{{end}}", "abc"},
        Case{"{{`}}`}}{{\"}}\"}}", "}}}}"},
        Case{"{{and .Id .State.Pid}}{{or \"\" \"d\"}}{{not true}}", "42dfalse"},
        Case{"{{if gt .State.Pid 41}}y{{end}}", "y"}, Case{"{{truncate .Id 2}}{{pad \"x\" 1 1}}|", "ab x |"},
        Case{"{{.Config.Labels.missing}}", "<no value>"}));

TEST_P(Renders, Twice) { // execution leaves no trace in the compiled form
    Template compiled(GetParam().text);
    EXPECT_EQ(compiled.execute(data()), compiled.execute(data()));
}

class Refuses : public testing::TestWithParam<const char *> {};
TEST_P(Refuses, BadTemplates) { EXPECT_THROW(run(GetParam()), TemplateError); }
INSTANTIATE_TEST_SUITE_P(Templates, Refuses,
                         testing::Values("{{", "{{.Id", "{{}}", "{{if .Id}}", "{{end}}", "{{else}}",
                                         "{{nofunc 1}}", "{{.Nope}}", "{{.State.Nope.Deeper}}", "{{\"x}}",
                                         "{{(.Id}}", "{{.Id)}}", "{{$x}}", "{{index .Mounts 5}}",
                                         "{{len .State.Pid}}", "{{.Id 1}}", "{{range .State.Pid}}{{end}}",
                                         "{{printf \"%999999999d\" 1}}", "{{/* x", "{{join .Id \",\"}}"));

TEST(Template, LimitsNesting) {
    std::string text = "{{";
    for (int i = 0; i < 5000; ++i)
        text += "(";
    EXPECT_THROW(Template{text}, TemplateError);
    std::string blocks;
    for (int i = 0; i < 5000; ++i)
        blocks += "{{if .Id}}";
    EXPECT_THROW(Template{blocks}, TemplateError);
}

} // namespace
} // namespace gantry::cli
