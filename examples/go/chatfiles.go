// Command chatfiles sends a picture through chatfiles and opens it again, with the Easemob API or the Lanying API. Go
// 1.19 or later, no packages. examples/README.md lists the settings.
//
//	go run examples/go/chatfiles.go easemob client-credentials photo.jpg
//	go run examples/go/chatfiles.go lanying jwt photo.jpg
package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	triesMax       = 5
	waitSecondsMax = 30
)

var (
	baseURL  = setting("FILES_URL", "http://127.0.0.1:8080")
	tenant   = setting("FILES_TENANT", "easemob-demo/chatdemoui")
	appID    = setting("FILES_APP_ID", "welovemaxim")
	clientID = setting("FILES_CLIENT_ID", strings.ReplaceAll(tenant, "/", "."))
	user     = setting("FILES_USER", "alice")
)

func setting(name, fallback string) string {
	if value, ok := os.LookupEnv(name); ok {
		return value
	}
	return fallback
}

func required(name string) (string, error) {
	if value, ok := os.LookupEnv(name); ok {
		return value, nil
	}
	return "", fmt.Errorf("set %s", name)
}

// --- Tokens: one of these three. A client never has the secrets: this is the part of your backend. ---

var tokens = map[string]func() (string, error){
	"client-credentials": clientCredentials,
	"dynamic":            dynamic,
	"jwt":                jwt,
}

// clientCredentials obtains a token from chatfiles: first one of the application, then one of the user. Keep the former
// for its lifetime.
func clientCredentials() (string, error) {
	secret, err := required("FILES_CLIENT_SECRET")
	if err != nil {
		return "", err
	}
	application := map[string]any{"grant_type": "client_credentials", "client_id": clientID, "client_secret": secret}
	app, err := grant(application, "")
	if err != nil {
		return "", err
	}
	return grant(map[string]any{"grant_type": "inherit", "username": user, "ttl": 3600}, app)
}

func grant(body map[string]any, token string) (string, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	url := baseURL + "/" + tenant + "/token"
	answer, err := waiting(call{method: http.MethodPost, url: url, header: header, json: encoded})
	if err != nil {
		return "", err
	}
	if answer.status != http.StatusOK {
		return "", fmt.Errorf("no token: %v", answer)
	}
	var granted struct {
		AccessToken string `json:"access_token"`
	}
	return granted.AccessToken, decode(json.Unmarshal(answer.body, &granted))
}

// decode names the source of a JSON error.
func decode(err error) error {
	if err != nil {
		return fmt.Errorf("the response is not the expected JSON: %w", err)
	}
	return nil
}

// dynamic makes Easemob's dynamic token, without a request. dynamic_token_ttl_seconds of the tenant must contain this
// ttl.
func dynamic() (string, error) {
	secret, err := required("FILES_CLIENT_SECRET")
	if err != nil {
		return "", err
	}
	appkey, now, ttl := strings.ReplaceAll(tenant, "/", "#"), time.Now().Unix(), 600
	digest := sha256.Sum256([]byte(fmt.Sprintf("%s%s%s%d%d%s", clientID, appkey, user, now, ttl, secret)))
	token, err := json.Marshal(map[string]any{
		"signature": hex.EncodeToString(digest[:]), "appkey": appkey, "userId": user, "curTime": now, "ttl": ttl,
	})
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(append([]byte("dt-"), token...)), nil
}

// jwt makes a JWT of your own backend, without a request. [tenant.auth.jwt] of the tenant has the same key, issuer and
// audience.
func jwt() (string, error) {
	secret, err := required("FILES_JWT_SECRET")
	if err != nil {
		return "", err
	}
	now := time.Now().Unix()
	claims, err := json.Marshal(map[string]any{
		"iss": setting("FILES_JWT_ISSUER", "https://chat.example.com"),
		"aud": setting("FILES_JWT_AUDIENCE", "chatfiles"),
		"sub": user, "app": tenant, "iat": now, "exp": now + 600,
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	signed := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(claims)
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(signed))
	return signed + "." + encode(mac.Sum(nil)), nil
}

// --- One HTTP request ---

// call is a request that can be sent more than once.
type call struct {
	method, url string
	header      http.Header
	json        []byte            // a JSON body, or
	fields      map[string]string // a form with these fields
	file        string            // and this file
	saveTo      string            // where a file is written, if the response is one
}

type answer struct {
	status     int
	retryAfter int
	body       []byte
	saved      int64 // bytes written to saveTo, or -1
}

func (a answer) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

var client = http.Client{
	Timeout: 5 * time.Minute,
	// Redirects (download_auth = "signed") are followed below, without the credentials.
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func exchange(c call) (answer, error) {
	request, err := http.NewRequest(c.method, c.url, bytes.NewReader(c.json))
	if err != nil {
		return answer{}, err
	}
	for name, values := range c.header {
		request.Header[name] = values
	}
	if c.file != "" {
		form, err := openForm(c)
		if err != nil {
			return answer{}, err
		}
		defer form.file.Close()
		request.Body = io.NopCloser(form.reader)
		request.ContentLength = form.length
		request.Header.Set("Content-Type", form.contentType)
		// The server may refuse a file that is too large before it is sent.
		request.Header.Set("Expect", "100-continue")
	}
	response, err := client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusFound {
		return exchange(call{method: http.MethodGet, url: response.Header.Get("Location"), saveTo: c.saveTo})
	}
	retryAfter, err := strconv.Atoi(response.Header.Get("Retry-After"))
	if err != nil {
		retryAfter = 1
	}
	result := answer{status: response.StatusCode, retryAfter: retryAfter, saved: -1}
	isJSON := strings.HasPrefix(response.Header.Get("Content-Type"), "application/json")
	if c.saveTo != "" && response.StatusCode == http.StatusOK && !isJSON {
		result.saved, err = save(response.Body, c.saveTo)
		return result, err
	}
	result.body, err = io.ReadAll(response.Body)
	return result, err
}

func save(body io.Reader, path string) (int64, error) {
	file, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	written, err := io.Copy(file, body)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return written, err
}

type form struct {
	file        *os.File
	reader      io.Reader
	length      int64
	contentType string
}

// openForm streams the file with a Content-Length.
func openForm(c call) (form, error) {
	file, err := os.Open(c.file)
	if err != nil {
		return form{}, err
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return form{}, err
	}
	// The form around the file: what the writer makes before and after it.
	var around bytes.Buffer
	writer := multipart.NewWriter(&around)
	for name, value := range c.fields {
		if err := writer.WriteField(name, value); err != nil {
			file.Close()
			return form{}, err
		}
	}
	kind := mime.TypeByExtension(filepath.Ext(c.file))
	if kind == "" {
		kind = "application/octet-stream"
	}
	name := strings.ReplaceAll(filepath.Base(c.file), `"`, "_")
	_, err = writer.CreatePart(textproto.MIMEHeader{
		"Content-Disposition": {fmt.Sprintf(`form-data; name="file"; filename="%s"`, name)},
		"Content-Type":        {kind},
	})
	head := around.Len()
	if err == nil {
		err = writer.Close()
	}
	if err != nil {
		file.Close()
		return form{}, err
	}
	parts := around.Bytes()
	middle := &progress{file: file, size: info.Size()}
	return form{
		file:        file,
		reader:      io.MultiReader(bytes.NewReader(parts[:head]), middle, bytes.NewReader(parts[head:])),
		length:      int64(len(parts)) + info.Size(),
		contentType: writer.FormDataContentType(),
	}, nil
}

// progress prints each tenth of the file that is read.
type progress struct {
	file                io.Reader
	size, sent, printed int64
}

func (p *progress) Read(into []byte) (int, error) {
	count, err := p.file.Read(into)
	p.sent += int64(count)
	if count > 0 && p.sent*10/p.size > p.printed {
		p.printed = p.sent * 10 / p.size
		fmt.Fprintf(os.Stderr, "sent %d %%\n", p.printed*10)
	}
	return count, err
}

// --- Errors that a client should handle ---

// waiting repeats a request that was refused for now: 429 and 503 say in Retry-After when to come back. Nothing was
// stored.
func waiting(c call) (answer, error) {
	for attempt := 1; ; attempt++ {
		result, err := exchange(c)
		if err != nil || (result.status != http.StatusTooManyRequests && result.status != http.StatusServiceUnavailable) {
			return result, err
		}
		// A daily quota ends at midnight: tell the user instead of waiting.
		if attempt == triesMax || result.retryAfter > waitSecondsMax {
			return result, fmt.Errorf("refused for %d s: %v", result.retryAfter, result)
		}
		fmt.Fprintf(os.Stderr, "%d: trying again in %d s\n", result.status, result.retryAfter)
		time.Sleep(time.Duration(result.retryAfter) * time.Second)
	}
}

// session sends requests with a token. A refused token is replaced once; a second refusal is an error.
type session struct {
	mint  func() (string, error)
	token string
}

func (s *session) call(c call, header, prefix string, isExpired func(answer) bool) (answer, error) {
	if c.header == nil {
		c.header = http.Header{}
	}
	var result answer
	for try := 1; try <= 2; try++ {
		if s.token == "" {
			token, err := s.mint()
			if err != nil {
				return answer{}, err
			}
			s.token = token
		}
		c.header.Set(header, prefix+s.token)
		var err error
		if result, err = waiting(c); err != nil {
			return answer{}, err
		}
		if !isExpired(result) {
			break
		}
		if try == 1 {
			fmt.Fprintln(os.Stderr, "the token was refused: obtaining a new one")
			s.token = ""
		}
	}
	if result.status == http.StatusRequestEntityTooLarge {
		return answer{}, fmt.Errorf("the file is too large: %s", result.body)
	}
	return result, nil
}

// --- The Easemob API ---

func easemob(s *session, path string) error {
	send := func(c call) (answer, error) {
		isExpired := func(a answer) bool { return a.status == http.StatusUnauthorized }
		result, err := s.call(c, "Authorization", "Bearer ", isExpired)
		if err == nil && result.status != http.StatusOK {
			err = errors.New(result.String())
		}
		return result, err
	}
	base := baseURL + "/" + tenant + "/chatfiles"
	// With restrict-access, a download needs the share-secret: put it into the message, with the URL.
	header := http.Header{"Restrict-Access": {"true"}}
	uploaded, err := send(call{method: http.MethodPost, url: base, header: header, file: path})
	if err != nil {
		return err
	}
	var stored struct {
		Entities []struct {
			UUID   string `json:"uuid"`
			Secret string `json:"share-secret"`
		} `json:"entities"`
	}
	if err := decode(json.Unmarshal(uploaded.body, &stored)); err != nil {
		return err
	}
	if len(stored.Entities) != 1 {
		return fmt.Errorf("one entity was expected: %s", uploaded.body)
	}
	url, secret := base+"/"+stored.Entities[0].UUID, stored.Entities[0].Secret
	fmt.Println("uploaded:", url)
	copied, thumbnail := outputs(path)
	header = http.Header{"Share-Secret": {secret}}
	original, err := send(call{method: http.MethodGet, url: url, header: header, saveTo: copied})
	if err != nil {
		return err
	}
	header = http.Header{"Share-Secret": {secret}, "Thumbnail": {"true"}}
	small, err := send(call{method: http.MethodGet, url: url, header: header, saveTo: thumbnail})
	if err != nil {
		return err
	}
	return report(path, original, small)
}

// --- The Lanying API ---

// code returns the code of a response; 0 if it has none. Errors have status 200; 402 and 10008 are tokens that are no
// longer valid.
func code(a answer) int {
	var envelope struct {
		Code int `json:"code"`
	}
	if json.Unmarshal(a.body, &envelope) != nil {
		return 0
	}
	return envelope.Code
}

func lanying(s *session, path string) error {
	send := func(url, saveTo string) (answer, error) {
		c := call{method: http.MethodGet, url: url, header: http.Header{"app_id": {appID}}, saveTo: saveTo}
		result, err := s.call(c, "Access-Token", "", func(a answer) bool { return code(a) == 402 || code(a) == 10008 })
		if err == nil && result.saved < 0 && code(result) != 200 {
			err = errors.New(result.String())
		}
		return result, err
	}
	// 102: a picture in a chat. to_type 1: a user.
	answered, err := send(baseURL+"/file/upload/chat?file_type=102&to_type=1&to_id=bob", "")
	if err != nil {
		return err
	}
	var ticket struct {
		Data struct {
			UploadURL   string            `json:"upload_url"`
			DownloadURL string            `json:"download_url"`
			Fields      map[string]string `json:"oss_body_param"`
		} `json:"data"`
	}
	if err := decode(json.Unmarshal(answered.body, &ticket)); err != nil {
		return err
	}
	// The upload has no token: the ticket is its permission. Its errors are XML, as those of OSS.
	upload := call{method: http.MethodPost, url: ticket.Data.UploadURL, fields: ticket.Data.Fields, file: path}
	uploaded, err := waiting(upload)
	switch {
	case err != nil:
		return err
	case bytes.Contains(uploaded.body, []byte("EntityTooLarge")):
		return fmt.Errorf("the file is too large: %s", uploaded.body)
	case uploaded.status != http.StatusOK:
		return errors.New(uploaded.String())
	}
	// The message to bob has this URL. He needs a token of his own to open it.
	url := ticket.Data.DownloadURL
	fmt.Println("uploaded:", url)
	copied, thumbnail := outputs(path)
	original, err := send(url, copied)
	if err != nil {
		return err
	}
	small, err := send(url+"&image_type=2", thumbnail)
	if err != nil {
		return err
	}
	return report(path, original, small)
}

func outputs(path string) (copied, thumbnail string) {
	return "copy-of-" + filepath.Base(path), "thumbnail-of-" + filepath.Base(path)
}

// report compares the copy with the original, and prints what was saved.
func report(path string, original, small answer) error {
	copied, _ := outputs(path)
	sent, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	received, err := os.ReadFile(copied)
	if err != nil {
		return err
	}
	if !bytes.Equal(sent, received) {
		return errors.New("the copy differs")
	}
	fmt.Printf("downloaded: %d bytes\nthumbnail: %d bytes\n", original.saved, small.saved)
	return nil
}

func main() {
	apis := map[string]func(*session, string) error{"easemob": easemob, "lanying": lanying}
	err := errors.New("usage: chatfiles easemob|lanying client-credentials|dynamic|jwt FILE")
	if len(os.Args) == 4 && apis[os.Args[1]] != nil && tokens[os.Args[2]] != nil {
		err = apis[os.Args[1]](&session{mint: tokens[os.Args[2]]}, os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
