/* A module of commands that reply with how many arguments they got, and of one that names its key.
 *
 * They touch no key; what counts is what COMMAND says of them. The API's functions are asked
 * for by name, so no header of Redis is needed.
 */
typedef struct Context Context;
typedef struct Text Text;
typedef int Command(Context *, Text **, int);

static int (*get_api)(const char *, void *);
static int (*set_attributes)(Context *, const char *, int, int);
static int (*create)(Context *, const char *, Command *, const char *, int, int, int);
static int (*reply)(Context *, long long);

static int (*reply_array)(Context *, long);
static int (*reply_text)(Context *, Text *);

static int name_key(Context *context, Text **argv, int argc) {
  if (argc < 2) return reply(context, argc);
  reply_array(context, 2);
  reply_text(context, argv[1]);
  return reply(context, argc);
}

static int count_arguments(Context *context, Text **argv, int argc) {
  (void)argv;
  return reply(context, argc);
}

int RedisModule_OnLoad(Context *context, Text **argv, int argc) {
  (void)argv, (void)argc;
  get_api = *(int (**)(const char *, void *))context;
  get_api("RedisModule_SetModuleAttribs", &set_attributes);
  get_api("RedisModule_CreateCommand", &create);
  get_api("RedisModule_ReplyWithLongLong", &reply);
  get_api("RedisModule_ReplyWithArray", &reply_array);
  get_api("RedisModule_ReplyWithString", &reply_text);
  set_attributes(context, "doc", 1, 1);
  create(context, "doc.get", count_arguments, "readonly", 1, 1, 1);
  create(context, "doc.name", name_key, "readonly", 1, 1, 1);
  create(context, "doc.copy", count_arguments, "write", 1, 2, 1);
  create(context, "doc.query", count_arguments, "readonly", 0, 0, 0);
  /* Names of modules that are well known, with the keys that they declare. */
  create(context, "json.get", count_arguments, "readonly", 1, 1, 1);
  create(context, "json.set", count_arguments, "write", 1, 1, 1);
  create(context, "json.del", count_arguments, "write", 1, 1, 1);
  create(context, "json.mset", count_arguments, "write", 1, -1, 3);
  create(context, "json.mget", count_arguments, "readonly", 1, 1, 1);
  create(context, "ft.search", count_arguments, "readonly", 1, 1, 1);
  create(context, "cms.merge", count_arguments, "write", 1, 1, 1);
  create(context, "ts.createrule", count_arguments, "write", 1, 1, 1);
  create(context, "bf.loadchunk", count_arguments, "write", 1, 1, 1);
  create(context, "doc.callback", count_arguments, "readonly getkeys-api", 1, 1, 1);
  return 0;
}
