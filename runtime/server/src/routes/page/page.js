'use strict';
const $ = id => document.getElementById(id);
const IDEAS = [
  'Explain how a mixture of experts saves work, in five sentences.',
  'Write a Python function that merges two sorted lists, with a test.',
  'Plan a weekend in Lisbon as a table: day, morning, afternoon, evening.',
];
const KEPT = 'ossmith.conversation', SETTINGS = 'ossmith.settings', KEY = 'ossmith.key';
const FIELDS = ['effort', 'temperature', 'instructions', 'tools'];
// What Markdown may become. Everything else that an answer holds is left out.
const ALLOWED = {
  ALLOWED_TAGS: ['p', 'br', 'hr', 'strong', 'em', 'del', 'code', 'pre', 'ul', 'ol', 'li', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'blockquote',
    'table', 'thead', 'tbody', 'tr', 'th', 'td', 'a', 'sub', 'sup'],
  ALLOWED_ATTR: ['href', 'title', 'align', 'start'],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
};
// Each message as the API has it, and under `page` what only this page knows: how it ended.
let history = [], running = null, model = '';

const headers = () => ({ 'Content-Type': 'application/json', ...($('key').value ? { Authorization: 'Bearer ' + $('key').value } : {}) });

function make(tag, name = '', text = '') {
  const element = document.createElement(tag);
  element.className = name;
  element.textContent = text;
  return element;
}

function button(text, action) {
  const element = make('button', '', text);
  element.type = 'button';
  element.addEventListener('click', action);
  return element;
}

async function failure(reply) {
  const text = await reply.text();
  try {
    return new Error(JSON.parse(text).error.message);
  } catch {
    return new Error(`The server answered ${reply.status}: ${text.slice(0, 300)}`);
  }
}

// The server's answer; an error that says what is wrong where there is none.
async function send(path, options) {
  let reply;
  try {
    reply = await fetch(path, { headers: headers(), ...options });
  } catch (why) {
    throw why.name === 'AbortError' ? why : new Error('The server cannot be reached.');
  }
  if (!reply.ok) throw await failure(reply);
  return reply;
}

async function findModel() {
  const reply = await send('v1/models');
  model = (await reply.json()).data[0].id;
  $('model').textContent = $('empty-model').textContent = model;
}

// Storage may be full or forbidden; the conversation then lasts as long as the page.
function keep(where, name, value) {
  try {
    where.setItem(name, JSON.stringify(value));
  } catch (why) {
    console.warn(`${name} is not kept: ${why.message}`);
  }
}

function kept(where, name) {
  try {
    return JSON.parse(where.getItem(name));
  } catch {
    return null;
  }
}

// Follows the text down, unless the reader has gone up to read.
function follow(change) {
  const box = $('scroll');
  const near = box.scrollHeight - box.scrollTop - box.clientHeight < 80;
  change();
  if (near) box.scrollTop = box.scrollHeight;
}

async function copy(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard for scripts, but what is selected can be copied.
    const area = make('textarea');
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  const before = from.textContent;
  from.textContent = 'Copied';
  setTimeout(() => { from.textContent = before; }, 1500);
}

function markdown(box, text, whole) {
  box.innerHTML = DOMPurify.sanitize(marked.parse(text, { gfm: true, breaks: false }), ALLOWED);
  for (const link of box.querySelectorAll('a')) Object.assign(link, { target: '_blank', rel: 'noopener noreferrer' });
  if (!whole) return;
  for (const pre of box.querySelectorAll('pre')) {
    const frame = make('div', 'code');
    pre.replaceWith(frame);
    frame.append(pre, button('Copy', event => copy(pre.textContent, event.target)));
  }
}

// The whole log from the history. While an answer comes, only its own element is written.
function show() {
  $('log').replaceChildren();
  $('empty').hidden = history.length > 0;
  history.forEach((message, index) => {
    if (message.role === 'user') $('log').append(make('div', 'user', message.content));
    if (message.role === 'assistant') $('log').append(answer(message, index));
  });
}

function answer(message, index) {
  const element = make('article', 'answer');
  write(element, message, index);
  return element;
}

function write(element, message, index) {
  const open = element.querySelector('details')?.open;
  const page = message.page ?? {}, coming = page.coming;
  element.replaceChildren();
  if (message.reasoning) {
    const thinking = coming && !message.content && !message.tool_calls?.length;
    const details = make('details', 'reasoning');
    details.open = thinking || (open && !coming);
    details.append(make('summary', '', thinking ? 'Reasoning …' : 'Reasoning'), make('p', '', message.reasoning));
    element.append(details);
  }
  if (message.content) {
    const final = make('div', 'final');
    markdown(final, message.content, !coming);
    element.append(final);
  }
  for (const call of message.tool_calls ?? []) element.append(callBox(call, index, coming));
  if (page.cut) element.append(make('p', 'cut', 'The answer is cut off: it reached the limit of tokens.'));
  if (page.stopped) element.append(make('p', 'cut', 'Stopped.'));
  if (page.error) element.append(make('p', 'error', page.error));
  if (coming) return;
  const actions = make('div', 'actions');
  if (message.content) actions.append(button('Copy', event => copy(message.content, event.target)));
  if (index === history.length - 1) actions.append(button('Retry', () => retry(index)));
  if (actions.childElementCount) element.append(actions);
}

// The reader plays the tool: what they type goes back to the model.
function callBox(call, index, coming) {
  const box = make('div', 'call');
  box.append(make('b', '', call.function.name), make('pre', '', call.function.arguments));
  const result = history.find(message => message.role === 'tool' && message.tool_call_id === call.id);
  if (result) {
    box.append(make('pre', 'result', '→ ' + result.content));
  } else if (!coming) {
    const form = make('form'), input = make('input');
    Object.assign(input, { placeholder: 'Result of ' + call.function.name, ariaLabel: 'Result of ' + call.function.name });
    const reply = make('button', '', 'Reply');
    form.append(input, reply);
    form.addEventListener('submit', event => {
      event.preventDefault();
      const calls = history[index].tool_calls;
      const before = history.filter(message => message.role === 'tool' && calls.some(other => other.id === message.tool_call_id));
      history.splice(index + 1 + before.length, 0, { role: 'tool', tool_call_id: call.id, content: input.value });
      keep(localStorage, KEPT, history);
      show();
      if (before.length + 1 === calls.length) turn();
    });
    box.append(form);
  }
  return box;
}

function retry(index) {
  if (running) return;
  history.length = index;
  turn();
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split('\n\n');
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split('\n').filter(line => line.startsWith('data: ')).map(line => line.slice(6)).join('\n');
      if (data === '[DONE]') return;
      if (data) yield JSON.parse(data);
    }
  }
}

function request() {
  const instructions = $('instructions').value.trim();
  // Answers that are empty, because they failed, are no part of the conversation.
  const said = history.filter(message => message.role !== 'assistant' || message.content || message.tool_calls);
  const messages = said.map(({ page, ...message }) => message);
  const body = { model, stream: true, reasoning_effort: $('effort').value, temperature: Number($('temperature').value), messages };
  if (instructions) messages.unshift({ role: 'system', content: instructions });
  if ($('tools').value.trim()) body.tools = JSON.parse($('tools').value);
  return body;
}

async function turn() {
  running = new AbortController();
  $('send').textContent = 'Stop';
  const message = { role: 'assistant', content: '', reasoning: '', page: { coming: true } };
  const index = history.length;
  show();
  const element = make('article', 'answer');
  element.append(make('p', 'dim', 'Waiting …'));
  follow(() => $('log').append(element));
  let due = null;
  const soon = () => { due ??= requestAnimationFrame(() => { due = null; follow(() => write(element, message, index)); }); };
  try {
    if (!model) await findModel();
    const reply = await send('v1/chat/completions', { method: 'POST', body: JSON.stringify(request()), signal: running.signal });
    let ended = false;
    for await (const event of events(reply.body)) {
      if (event.error) throw new Error(event.error.message);
      const choice = event.choices[0];
      if (!choice) continue;
      message.reasoning += choice.delta.reasoning ?? '';
      message.content += choice.delta.content ?? '';
      for (const piece of choice.delta.tool_calls ?? []) {
        message.tool_calls ??= [];
        message.tool_calls[piece.index] ??= { id: piece.id, type: 'function', function: { name: piece.function.name, arguments: '' } };
        message.tool_calls[piece.index].function.arguments += piece.function.arguments ?? '';
      }
      if (choice.finish_reason) ended = true;
      if (choice.finish_reason === 'length') message.page.cut = true;
      soon();
    }
    if (!ended) throw new Error('The connection ended before the answer did.');
  } catch (why) {
    if (why.name === 'AbortError') message.page.stopped = true;
    else message.page.error = String(why.message);
  }
  if (due) cancelAnimationFrame(due);
  running = null;
  $('send').textContent = 'Send';
  // A call that was cut off cannot be answered.
  if (message.page.cut || message.page.stopped || message.page.error) delete message.tool_calls;
  delete message.page.coming;
  // Another conversation may have started since.
  if (!element.isConnected) return;
  history.push(message);
  keep(localStorage, KEPT, history);
  follow(() => write(element, message, index));
  element.querySelector('.call input')?.focus();
}

function ask(text) {
  if (!text) return;
  history.push({ role: 'user', content: text });
  keep(localStorage, KEPT, history);
  $('scroll').scrollTop = $('scroll').scrollHeight;
  turn();
}

// What is wrong with the tools, or nothing.
function toolsError(text) {
  if (!text.trim()) return '';
  let tools;
  try {
    tools = JSON.parse(text);
  } catch (why) {
    return `The tools are not valid JSON: ${why.message}`;
  }
  if (!Array.isArray(tools)) return 'The tools are not a list: put them in [ and ].';
  for (const [index, tool] of tools.entries()) {
    if (tool?.type !== 'function') return `Tool ${index + 1} has no "type": "function".`;
    if (typeof (tool.function ?? tool).name !== 'string') return `Tool ${index + 1} has no name: {"type": "function", "function": {"name": …}}.`;
  }
  return '';
}

$('composer').addEventListener('submit', event => {
  event.preventDefault();
  if (running) return running.abort();
  const text = $('text').value.trim();
  $('text').value = '';
  $('text').style.height = '';
  ask(text);
});
$('text').addEventListener('keydown', event => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing && matchMedia('(hover: hover)').matches) {
    event.preventDefault();
    $('composer').requestSubmit();
  }
});
$('text').addEventListener('input', event => {
  event.target.style.height = '';
  event.target.style.height = event.target.scrollHeight + 2 + 'px';
});
$('fresh').addEventListener('click', () => {
  running?.abort();
  history = [];
  keep(localStorage, KEPT, history);
  show();
  $('text').focus();
});
$('open').addEventListener('click', () => $('settings').showModal());
$('settings').querySelector('form').addEventListener('submit', event => {
  const wrong = toolsError($('tools').value);
  $('tools-error').textContent = wrong;
  $('tools-error').hidden = !wrong;
  if (wrong) {
    event.preventDefault();
    $('tools').focus();
  }
});
$('settings').addEventListener('close', () => {
  keep(localStorage, SETTINGS, Object.fromEntries(FIELDS.map(id => [id, $(id).value])));
  keep(sessionStorage, KEY, $('key').value);
});
$('key').addEventListener('change', () => findModel().catch(showProblem));

function showProblem(why) {
  follow(() => $('log').append(make('p', 'error', why.message)));
}

for (const idea of IDEAS) $('ideas').append(button(idea, () => ask(idea)));
for (const [id, value] of Object.entries(kept(localStorage, SETTINGS) ?? {})) if (FIELDS.includes(id)) $(id).value = value;
$('key').value = kept(sessionStorage, KEY) ?? '';
history = kept(localStorage, KEPT) ?? [];
show();
$('scroll').scrollTop = $('scroll').scrollHeight;
findModel().catch(showProblem);
