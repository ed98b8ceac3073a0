// Clients from npm against a scripted server: a streamed round with a tool each.
//
//     node clients.mjs BASE_URL [case …]
//
// The model calls `get_weather` once for each question, and answers with what it returned. Prints `ok CLIENT | VERSION | WHAT`
// for each that went through.

import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { z } from 'zod';

const [url, ...wanted] = process.argv.slice(2);
const model = 'gpt-oss-20b';
const question = 'What is the weather in Paris?';
const schema = { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false };
const getWeather = ({ city }) => `It is sunny in ${city}.`;
const check = answer => { if (!String(answer).includes('It is sunny in Paris.')) throw new Error(`the answer is ${answer}`); };
const version = name => JSON.parse(fs.readFileSync(new URL(`./node_modules/${name}/package.json`, import.meta.url))).version;

const cases = [];
const add = (id, client, name, what, run) => cases.push({ id, client, name, what, run });

const openai = async () => new (await import('openai')).default({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });

add('openai_chat', 'OpenAI for Node, Chat Completions', 'openai', 'a streamed run of a function as a tool', async () => {
  const { zodFunction } = await import('openai/helpers/zod');
  const tools = [zodFunction({ name: 'get_weather', description: 'The weather.', parameters: z.object({ city: z.string() }), function: getWeather })];
  const runner = (await openai()).chat.completions.runTools({ stream: true, model, messages: [{ role: 'user', content: question }], tools });
  check(await runner.finalContent());
});

add('openai_responses', 'OpenAI for Node, Responses', 'openai', 'a streamed round with a tool, its reasoning sent back', async () => {
  const client = await openai();
  const tools = [{ type: 'function', name: 'get_weather', description: 'The weather.', parameters: schema, strict: true }];
  let input = [{ role: 'user', content: question }];
  for (const last of [false, true]) {
    const stream = client.responses.stream({ model, input, tools, store: false });
    for await (const _ of stream);
    const response = await stream.finalResponse();
    if (last) return check(response.output_text);
    const call = response.output.find(item => item.type === 'function_call');
    input = [...input, ...response.output, { type: 'function_call_output', call_id: call.call_id, output: getWeather(JSON.parse(call.arguments)) }];
  }
});

add('anthropic', 'Anthropic for TypeScript', '@anthropic-ai/sdk', 'a streamed round with a tool and its thinking, count_tokens, errors', async () => {
  const { default: Anthropic, NotFoundError } = await import('@anthropic-ai/sdk');
  const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0 });
  const tools = [{ name: 'get_weather', description: 'The weather.', input_schema: schema }];
  const messages = [{ role: 'user', content: question }];
  for (const last of [false, true]) {
    const message = await client.messages.stream({ model, max_tokens: 2000, messages, tools, thinking: { type: 'adaptive' } }).finalMessage();
    if (message.content[0].type !== 'thinking' || !message.content[0].signature) throw new Error(JSON.stringify(message));
    if (last) { check(message.content.at(-1).text); break; }
    const call = message.content.at(-1);
    messages.push({ role: 'assistant', content: message.content });
    messages.push({ role: 'user', content: [{ type: 'tool_result', tool_use_id: call.id, content: getWeather(call.input) }] });
  }
  if (!((await client.messages.countTokens({ model, messages, tools })).input_tokens > 0)) throw new Error('no tokens');
  const refused = await client.messages.create({ model: 'other', max_tokens: 1, messages }).catch(why => why);
  if (!(refused instanceof NotFoundError)) throw refused;
});

add('ollama', 'Ollama for JavaScript', 'ollama', 'a streamed round with a tool, list, show', async () => {
  const { Ollama } = await import('ollama');
  const client = new Ollama({ host: url });
  const tools = [{ type: 'function', function: { name: 'get_weather', description: 'The weather.', parameters: schema } }];
  const messages = [{ role: 'user', content: question }];
  for (const last of [false, true]) {
    let text = '', thinking = '', calls = [];
    for await (const part of await client.chat({ model: 'gpt-oss:20b', messages, tools, think: true, stream: true })) {
      text += part.message.content;
      thinking += part.message.thinking ?? '';
      calls.push(...(part.message.tool_calls ?? []));
    }
    if (last) { check(text); break; }
    messages.push({ role: 'assistant', content: '', thinking, tool_calls: calls });
    messages.push({ role: 'tool', tool_name: calls[0].function.name, content: getWeather(calls[0].function.arguments) });
  }
  const names = (await client.list()).models.map(it => it.name);
  if (!names.includes('gpt-oss:20b') || !(await client.show({ model: 'gpt-oss:20b' })).capabilities.includes('thinking')) throw new Error(names);
});

const agentsTwoTurns = async (kind, more) => {
  const sdk = await import('@openai/agents');
  // Its own copy of OpenAI's package makes the client.
  const { OpenAI } = await import('openai');
  sdk.setTracingDisabled(true);
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'none', maxRetries: 0 });
  const agent = new sdk.Agent({ name: 'Weather', model: new sdk[kind](client, model), ...more(sdk) });
  let input = question;
  for (let turn = 0; turn < 2; turn += 1) {
    const result = await sdk.run(agent, input, { stream: true });
    const names = new Set();
    for await (const event of result) names.add(event.name);
    await result.completed;
    if (!names.has('tool_called') || !names.has('tool_output')) throw new Error([...names]);
    check(result.finalOutput);
    input = [...result.history, { role: 'user', content: 'And now?' }];
  }
};
for (const [id, api, kind] of [['agents_responses', 'Responses', 'OpenAIResponsesModel'], ['agents_chat', 'Chat Completions', 'OpenAIChatCompletionsModel']]) {
  add(id, `Agents SDK for JavaScript, ${api}`, '@openai/agents', 'two streamed turns, each with a tool', () => agentsTwoTurns(kind, sdk => (
    { tools: [sdk.tool({ name: 'get_weather', description: 'The weather.', parameters: z.object({ city: z.string() }), execute: async input => getWeather(input) })] })));
}
add('agents_mcp', 'Agents SDK for JavaScript, MCP', '@openai/agents', 'two streamed turns, each with a tool of an MCP server over stdio', async () => {
  const { MCPServerStdio } = await import('@openai/agents');
  // The server is written with the SDK for Python, which the Python clients bring.
  const python = fileURLToPath(new URL('../py/bin/python3', import.meta.url));
  const script = fileURLToPath(new URL('../../../tests/clients/mcp_server.py', import.meta.url));
  if (!fs.existsSync(python)) return 'there is no MCP server without the clients from PyPI';
  const server = new MCPServerStdio({ name: 'weather', command: python, args: [script], clientSessionTimeoutSeconds: 60 });
  await server.connect();
  try {
    await agentsTwoTurns('OpenAIResponsesModel', () => ({ mcpServers: [server] }));
  } finally {
    await server.close();
  }
});

const aiSdk = (id, client, name, what, make) => add(id, client, name, what, async () => {
  const ai = await import('ai');
  const tools = { get_weather: ai.tool({ description: 'The weather.', inputSchema: z.object({ city: z.string() }), execute: async input => getWeather(input) }) };
  let failure;
  const result = ai.streamText({ model: await make(), prompt: question, tools, stopWhen: ai.stepCountIs(3), onError: ({ error }) => { failure = error; } });
  const text = await result.text.catch(why => { throw failure ?? why; });
  if (failure) throw failure;
  check(text);
  if ((await result.steps).length !== 2) throw new Error(`${(await result.steps).length} steps`);
});
const overV1 = { baseURL: `${url}/v1`, apiKey: 'none' };
aiSdk('ai_responses', 'Vercel AI SDK, openai', '@ai-sdk/openai', 'streamText with a tool over Responses', async () => (await import('@ai-sdk/openai')).createOpenAI(overV1).responses(model));
aiSdk('ai_chat', 'Vercel AI SDK, openai.chat', '@ai-sdk/openai', 'streamText with a tool over Chat Completions', async () => (await import('@ai-sdk/openai')).createOpenAI(overV1).chat(model));
aiSdk('ai_compatible', 'Vercel AI SDK, openai-compatible', '@ai-sdk/openai-compatible', 'streamText with a tool over Chat Completions', async () => (await import('@ai-sdk/openai-compatible')).createOpenAICompatible({ name: 'ossmith', ...overV1 })(model));
aiSdk('ai_anthropic', 'Vercel AI SDK, anthropic', '@ai-sdk/anthropic', 'streamText with a tool over Messages', async () => (await import('@ai-sdk/anthropic')).createAnthropic(overV1)('claude-sonnet-4-5'));

let failed = 0;
for (const { id, client, name, what, run } of cases) {
  if (wanted.length && !wanted.includes(id)) continue;
  try {
    const skipped = await run();
    console.log(skipped ? `NOT CHECKED: ${client}: ${skipped}` : `ok ${client} | ${version(name)} | ${what}`);
  } catch (why) {
    failed += 1;
    console.log(`FAILED ${id}: ${why?.stack ?? why}`);
  }
}
process.exit(failed ? 1 : 0);
