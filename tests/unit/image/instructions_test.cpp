// Dockerfile lines on an image's configuration.
#include "core/image/instructions.h"

#include <gantry/error.hpp>

#include <boost/json.hpp>
#include <gtest/gtest.h>

namespace gantry {
namespace {

namespace json = boost::json;

json::object after(const std::vector<std::string> &lines, const std::string &before = "{}") {
    json::object config = json::parse(before).get_object();
    apply_instructions(config, lines);
    return config;
}

TEST(Instructions, EveryOneOfThem) {
    EXPECT_EQ(after({R"(CMD ["a","b"])", "ENTRYPOINT run it", "ENV A=1 B='x y'", "ENV OLD form of it",
                     "EXPOSE 80 53/udp 8000-8001", "LABEL a=b \"c d\"=e", "ONBUILD RUN make", "USER app:app",
                     "VOLUME /a /b", "WORKDIR /srv", "WORKDIR sub", "STOPSIGNAL SIGINT",
                     R"(SHELL ["/bin/bash","-c"])", "HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"}),
              json::parse(R"({"Cmd":["a","b"],"Entrypoint":["/bin/sh","-c","run it"],
                "Env":["A=1","B=x y","OLD=form of it"],
                "ExposedPorts":{"80/tcp":{},"53/udp":{},"8000/tcp":{},"8001/tcp":{}},
                "Labels":{"a":"b","c d":"e"},"OnBuild":["RUN make"],"User":"app:app",
                "Volumes":{"/a":{},"/b":{}},"WorkingDir":"/srv/sub","StopSignal":"SIGINT",
                "Shell":["/bin/bash","-c"],
                "Healthcheck":{"Interval":90000000000,"Retries":3,"Test":["CMD-SHELL","curl x"]}})")
                  .get_object());
}

TEST(Instructions, VariablesAreTheImages) {
    const std::string env = R"({"Env":["PATH=/bin","EMPTY="]})";
    EXPECT_EQ(after({"ENV PATH=/x:$PATH Q='$PATH' E=${EMPTY:-none} F=${PATH:+yes} G=\\$PATH"}, env).at("Env"),
              json::parse(R"(["EMPTY=","PATH=/x:/bin","Q=$PATH","E=none","F=yes","G=$PATH"])"));
}

TEST(Instructions, AnEntrypointDropsTheOldCommand) {
    EXPECT_FALSE(after({"ENTRYPOINT [\"x\"]"}, R"({"Cmd":["old"]})").contains("Cmd"));
    EXPECT_TRUE(after({"CMD [\"new\"]", "ENTRYPOINT [\"x\"]"}, R"({"Cmd":["old"]})").contains("Cmd"));
}

TEST(Instructions, BadOnesAreNamed) {
    for (const char *bad :
         {"RUN x", "FROM y", "CMD", "", "EXPOSE 0", "EXPOSE 70000", "EXPOSE 5-4", "EXPOSE 80/x", "ENV =x",
          "LABEL a", "ONBUILD FROM x", "HEALTHCHECK", "HEALTHCHECK --interval=0s CMD x",
          "HEALTHCHECK --what=1 CMD x", "HEALTHCHECK --retries=0 CMD x", "ENV A=${PATH", "ENV A=${P%x}"}) {
        try {
            after({bad});
            ADD_FAILURE() << bad;
        } catch (const Error &error) {
            EXPECT_EQ(error.error_class(), ErrorClass::kInvalidArgument);
            EXPECT_NE(error.message().find(bad), std::string::npos) << error.message();
        }
    }
}

} // namespace
} // namespace gantry
