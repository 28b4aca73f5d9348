// Every table of the engine. Foreign keys say what refers to what, so that "in use" is never a guess.
// States: an object is written with state 'making' before work on disk begins, becomes 'ready' when
// the work is done, and 'removing' before it is undone. Recovery finishes or undoes the others.
#include "core/store/db.h"

namespace gantry {

const char *const kSchemaSteps[] = {
    R"sql(
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- Blobs of the content store: manifests, configs, retained compressed layers.
CREATE TABLE blob(
  digest TEXT PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT NOT NULL DEFAULT '',
  created INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;

-- Layers. id is the driver's opaque id, base 32 of a counter that never runs backwards.
-- Image layers have a chain_id and are shared; container layers have none.
CREATE TABLE layer_counter(next INTEGER NOT NULL);
INSERT INTO layer_counter VALUES(1);
CREATE TABLE layer(
  id TEXT PRIMARY KEY, driver TEXT NOT NULL,
  state TEXT NOT NULL CHECK(state IN ('making','ready','removing')),
  parent TEXT REFERENCES layer(id) ON DELETE RESTRICT,
  chain_id TEXT, diff_id TEXT NOT NULL DEFAULT '', blob_digest TEXT NOT NULL DEFAULT '',
  blob_size INTEGER NOT NULL DEFAULT 0, size INTEGER NOT NULL DEFAULT 0,
  inodes INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE UNIQUE INDEX layer_by_chain ON layer(driver, chain_id) WHERE chain_id IS NOT NULL AND state='ready';
CREATE INDEX layer_by_parent ON layer(parent);

-- Images. id is the digest of the config; manifest is the platform's manifest.
CREATE TABLE image(
  id TEXT PRIMARY KEY, manifest TEXT NOT NULL, config BLOB NOT NULL,
  top_layer TEXT REFERENCES layer(id) ON DELETE RESTRICT,
  parent TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL, created INTEGER NOT NULL,
  added INTEGER NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE image_name(
  registry TEXT NOT NULL, repository TEXT NOT NULL, tag TEXT NOT NULL,
  image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
  tagged INTEGER NOT NULL, PRIMARY KEY(registry, repository, tag)) WITHOUT ROWID;
CREATE INDEX image_name_by_image ON image_name(image);
-- Digests by which a repository knows the image (manifest or index).
CREATE TABLE image_digest(
  registry TEXT NOT NULL, repository TEXT NOT NULL, digest TEXT NOT NULL,
  image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
  PRIMARY KEY(registry, repository, digest)) WITHOUT ROWID;
CREATE INDEX image_digest_by_image ON image_digest(image);

-- Containers. config is the create request in Docker's dialect; state is the life cycle as JSON.
CREATE TABLE container(
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE,
  phase TEXT NOT NULL CHECK(phase IN ('making','ready','removing')),
  image TEXT REFERENCES image(id) ON DELETE RESTRICT,
  layer TEXT REFERENCES layer(id) ON DELETE RESTRICT,
  config TEXT NOT NULL, state TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX container_by_image ON container(image);

CREATE TABLE network(
  id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, driver TEXT NOT NULL,
  spec TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE endpoint(
  id TEXT PRIMARY KEY, network TEXT NOT NULL REFERENCES network(id) ON DELETE RESTRICT,
  owner TEXT NOT NULL, -- container id, or sandbox id of one that is kept warm
  state TEXT NOT NULL CHECK(state IN ('making','ready','removing')),
  spec TEXT NOT NULL, info TEXT NOT NULL DEFAULT '', ports TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
CREATE INDEX endpoint_by_owner ON endpoint(owner);

CREATE TABLE volume(
  name TEXT PRIMARY KEY, driver TEXT NOT NULL, anonymous INTEGER NOT NULL DEFAULT 0,
  labels TEXT NOT NULL DEFAULT '{}', options TEXT NOT NULL DEFAULT '{}',
  created INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE volume_use(
  volume TEXT NOT NULL REFERENCES volume(name) ON DELETE RESTRICT,
  container TEXT NOT NULL REFERENCES container(id) ON DELETE CASCADE,
  PRIMARY KEY(volume, container)) WITHOUT ROWID;

-- Key-value store lent to plugins.
CREATE TABLE plugin_kv(
  plugin TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(plugin, key)) WITHOUT ROWID;
)sql",
    // Why a ready layer is not to be trusted; of a removing one: the layer that took its place.
    R"sql(ALTER TABLE layer ADD COLUMN damaged TEXT NOT NULL DEFAULT '';)sql",
    // Pulls that began and did not end. Their parts (digests of blobs, chain IDs of layers) are spared by the
    // sweep, so that the next attempt goes on with them.
    R"sql(
CREATE TABLE pull(manifest TEXT PRIMARY KEY, begun INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE pull_part(
  pull TEXT NOT NULL REFERENCES pull(manifest) ON DELETE CASCADE, part TEXT NOT NULL,
  PRIMARY KEY(pull, part)) WITHOUT ROWID;
CREATE INDEX pull_part_by_part ON pull_part(part);
)sql",
    // Repositories that are known to have a layer blob of an image: where it can be had again after its
    // compressed form was dropped, and what a push can mount instead of sending it.
    R"sql(
CREATE TABLE blob_origin(
  digest TEXT NOT NULL, registry TEXT NOT NULL, repository TEXT NOT NULL,
  image TEXT NOT NULL REFERENCES image(id) ON DELETE CASCADE,
  PRIMARY KEY(digest, registry, repository, image)) WITHOUT ROWID;
CREATE INDEX blob_origin_by_image ON blob_origin(image);
)sql",
};
const int kSchemaStepCount = sizeof kSchemaSteps / sizeof *kSchemaSteps;

} // namespace gantry
