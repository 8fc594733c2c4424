import { Changes } from '../meeting/changes';
import type { MeetingActions, MeetingSnapshot, MeetingSource, Person, Phase, Quality, VideoHandle } from '../meeting/model';

const NAMES = ['Ana Kovač', 'Wei Ling Tan', 'Marcus Oyelaran', 'Priya Raman', 'Jonas Lindqvist', 'Sofía Herrera', 'Tomasz Zieliński', 'Aiko Mori', 'Daniel Okafor-Whitcombe', 'Léa Fontaine', 'Sam', 'Noor Haddad'];
const POPS = ['fra', 'sin', 'iad'];
const QUALITIES: Quality[] = ['good', 'good', 'good', 'fair', 'good', 'poor', 'good', 'lost'];

class FakeMeeting extends Changes implements MeetingSource {
  private current: MeetingSnapshot;

  constructor(query: URLSearchParams) {
    super();
    const count = Number(query.get('people') ?? 2);
    const cameras = Number(query.get('cameras') ?? count);
    const people = Array.from({ length: count }, (_, index) => person(index, index < cameras));
    if (query.has('screen')) people[1] = { ...(people[1] ?? person(1, true)), screen: picture(drawScreen, 1280, 720) };
    this.current = {
      phase: (query.get('phase') as Phase | null) ?? 'connected', end: null, code: 'kqz-mvtr-eal', title: query.get('title') ?? 'Weekly review', people,
      audio: [], chat: query.has('chat') ? conversation() : [], notices: query.has('notice') ? [{ id: 1, text: 'Wei Ling Tan joined', tone: 'plain' }, { id: 2, text: 'The screen could not be shared.', tone: 'warning' }] : [],
      placement: { edgeId: 'fra-1', region: 'fra', alternates: ['iad', 'sin'], reasons: ['Nearest healthy edge: 11 ms predicted from your network', 'Already carries this meeting', 'Load 18 %'] },
      rttMs: 11.7, micOn: true, cameraOn: true, sharing: false, soundBlocked: query.has('blocked'), devices: { audioinput: 'default', videoinput: '', audiooutput: 'default' }, recording: query.has('recording'), mayRecord: query.has('host'),
    };
  }

  readonly snapshot = () => this.current;

  readonly actions: MeetingActions = {
    setMic: async (micOn) => this.set({ micOn }),
    setCamera: async (cameraOn) => this.set({ cameraOn }),
    setSharing: async (sharing) => this.set({ sharing }),
    useDevice: async () => undefined,
    sendChat: async (text) => this.set({ chat: [...this.current.chat, { id: String(Math.random()), from: 'me', name: '', text, atMs: Date.now(), own: true, state: 'sent' }] }),
    retryChat: async () => undefined,
    raiseHand: async (up) => this.setMe({ handSinceMs: up ? Date.now() : null }),
    react: async (reaction) => this.setMe({ reaction }),
    record: async (recording) => this.set({ recording }),
    allowSound: async () => this.set({ soundBlocked: false }),
    dismiss: (id) => this.set({ notices: this.current.notices.filter((notice) => notice.id !== id) }),
    leave: async () => undefined,
  };

  private setMe(change: Partial<Person>): void {
    this.set({ people: this.current.people.map((one) => (one.isLocal ? { ...one, ...change } : one)) });
  }

  private set(change: Partial<MeetingSnapshot>): void {
    this.current = { ...this.current, ...change };
    this.changed();
  }
}

export function fakeMeeting(query: URLSearchParams): MeetingSource {
  return new FakeMeeting(query);
}

function person(index: number, camera: boolean): Person {
  return {
    identity: `p${index}`, name: (NAMES[index % NAMES.length] ?? 'Guest') + (index >= NAMES.length ? ` ${index}` : ''), isLocal: index === 0, micOn: index % 3 !== 2, speaking: index === 1,
    quality: QUALITIES[index % QUALITIES.length] ?? 'good', pop: POPS[index % POPS.length] ?? '', camera: camera ? picture(drawFace(index), 320, 180) : null, screen: null, mirrored: index === 0,
    handSinceMs: index === 3 ? 1 : null, reaction: index === 2 ? '👏' : null, joinedAtMs: index, lastSpokeAtMs: 0,
  };
}

type Draw = (pen: CanvasRenderingContext2D, width: number, height: number) => void;

/** One still frame as a stream: looks like a camera, costs nothing. */
function picture(draw: Draw, width: number, height: number): VideoHandle {
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const pen = canvas.getContext('2d');
  const stream = canvas.captureStream(2);
  if (pen) {
    draw(pen, width, height);
    setInterval(() => draw(pen, width, height), 500);
  }
  return { attach: (element) => (element.srcObject = stream), detach: (element) => (element.srcObject = null) };
}

function drawFace(index: number): Draw {
  return (pen, width, height) => {
    const hue = (index * 67 + 20) % 360;
    const wall = pen.createLinearGradient(0, 0, width, height);
    wall.addColorStop(0, `hsl(${hue} 22% 46%)`);
    wall.addColorStop(1, `hsl(${(hue + 40) % 360} 26% 26%)`);
    pen.fillStyle = wall;
    pen.fillRect(0, 0, width, height);
    pen.fillStyle = `hsl(${(hue + 180) % 360} 18% 24%)`;
    pen.beginPath();
    pen.ellipse(width / 2, height * 1.05, width * 0.24, height * 0.42, 0, 0, 7);
    pen.fill();
    pen.fillStyle = `hsl(${(25 + index * 5) % 50} 38% ${38 + ((index * 13) % 34)}%)`;
    pen.beginPath();
    pen.ellipse(width / 2, height * 0.45, width * 0.1, height * 0.23, 0, 0, 7);
    pen.fill();
  };
}

const drawScreen: Draw = (pen, width, height) => {
  pen.fillStyle = '#fdfdfc';
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = '#20262d';
  pen.font = '600 44px system-ui';
  pen.fillText('Latency by region, week 47', 72, 110);
  [0.9, 0.62, 0.74, 0.38, 0.55].forEach((value, index) => {
    pen.fillStyle = index === 1 ? '#0f8f6c' : '#c9d2d4';
    pen.fillRect(90 + index * 220, 620 - value * 420, 130, value * 420);
  });
};

function conversation(): MeetingSnapshot['chat'] {
  const at = Date.now() - 400_000;
  const say = (index: number, text: string, own = false, state: 'sent' | 'failed' = 'sent') => ({ id: `c${index}`, from: own ? 'me' : `p${index % 3}`, name: NAMES[(index % 3) + 1] ?? '', text, atMs: at + index * 45_000, own, state });
  return [
    say(0, 'Good morning from Singapore. I can hear you very clearly.'),
    say(3, 'The picture is sharp too.'),
    say(4, 'Same here. Slides are at https://example.org/weekly/review-47 if you want to read along while Ana presents.'),
    say(5, 'Thanks, opening them now.', true),
    say(6, 'Give me a second to share.', true, 'failed'),
  ];
}
